"""The demo: a student distilled in three ways on this machine, from start to report."""
