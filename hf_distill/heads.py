"""The output head of a model, run on chosen rows instead of on the whole batch."""
