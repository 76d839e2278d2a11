"""Facts about any model: its head, its layers, its features by name, its vocabulary."""
