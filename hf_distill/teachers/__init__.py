"""Teachers: where signals come from."""
