"""What is trained on next: selectors, the dynamic sampler, the probe."""
