"""Trainings in rounds, on data that is generated between them."""
