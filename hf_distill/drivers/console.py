"""The terminal, while our own progress is shown on it."""

from __future__ import annotations

import os


def quiet_libraries() -> None:
    """Leave the terminal to the progress bars."""
    import datasets
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it found nothing else
