"""What evaluation measures of a student beside its losses; one metric a file, `base` says what one is."""
