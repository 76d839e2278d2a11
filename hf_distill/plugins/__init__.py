"""Plugins: finding and activating them, and the registries of what they offer."""
