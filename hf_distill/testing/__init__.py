"""What authors of plugins test with: a kit of properties, tiny models, a tokenizer for them and data."""

from __future__ import annotations

from .data import causal_lm_dataset, classification_dataset, tiny_tokenizer
from .kit import conformance, conformance_on_two_processes
from .models import tiny_inputs, tiny_model

__all__ = [
    "causal_lm_dataset",
    "classification_dataset",
    "conformance",
    "conformance_on_two_processes",
    "tiny_inputs",
    "tiny_model",
    "tiny_tokenizer",
]
