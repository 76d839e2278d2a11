"""What the golden values of the tests were made from."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def waves() -> Callable[..., Tensor]:
    """Logits that any program can make: what the authors' code was run on, with a phase for each model."""

    def logits(phase: float, rows: int = 4) -> Tensor:
        row, column = torch.arange(rows, dtype=torch.float64)[:, None], torch.arange(5, dtype=torch.float64)
        return 3 * torch.sin(phase + 1.7 * row + 2.3 * column + 0.37 * row * column)

    return logits
