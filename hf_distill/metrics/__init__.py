"""What is measured of a student: agreement with the teacher, perplexity, calibration, recovery. See each file."""
