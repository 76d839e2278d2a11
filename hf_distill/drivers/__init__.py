"""What runs several trainings, one after another."""
