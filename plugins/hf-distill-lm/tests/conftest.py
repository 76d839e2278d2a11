"""What the golden values of the tests were made from."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def waves() -> Callable[[float], Tensor]:
    """Logits [4, 9] that any program can make: what the authors' code was run on, with a phase for each model."""

    def logits(phase: float) -> Tensor:
        rows, columns = torch.arange(4, dtype=torch.float64)[:, None], torch.arange(9, dtype=torch.float64)
        return 3 * torch.sin(phase + 1.7 * rows + 2.3 * columns + 0.37 * rows * columns)

    return logits
