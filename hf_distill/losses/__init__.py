"""Losses: what they are, the built-in ones, and the engine that runs losses on logits in little memory."""
