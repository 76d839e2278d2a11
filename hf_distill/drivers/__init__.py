"""What runs whole trainings: one from a file, and several in stages."""
