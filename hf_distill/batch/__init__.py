"""What models say about a batch, and what of a batch losses read."""
