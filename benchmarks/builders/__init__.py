"""The experiments of `benchmarks/students.py`: a file per builder, named after it, that sets ``EXPERIMENT``.

`experiments.frame` says what an experiment is; `stories` and `intents` hold the models and data that experiments share.
"""
