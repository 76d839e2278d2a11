"""What authors of plugins test with: tiny models, a tokenizer for them and data, all made in the process."""

from __future__ import annotations

from .data import causal_lm_dataset, classification_dataset, tiny_tokenizer
from .models import tiny_inputs, tiny_model

__all__ = ["causal_lm_dataset", "classification_dataset", "tiny_inputs", "tiny_model", "tiny_tokenizer"]
