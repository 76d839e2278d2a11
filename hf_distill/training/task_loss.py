"""The task's own loss, where it is the model's or the user's, and the load balancing of a mixture of experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..batch.signals import Batch

ROWS = "rows"


def model_task_loss(
    student: nn.Module, outputs: Any, batch: Batch, function: Callable[..., Tensor] | None = None
) -> Tensor:
    """The sum of the task's loss over the micro-batch's rows, from the model or the user's function.

    Both give a mean over the items they are told of, or over the micro-batch; told of the micro-batch alone, that mean
    times the count is the sum, whichever of the two it is.

    Args:
        student: the unwrapped student, for messages.
        outputs: what its forward pass gave.
        batch: the micro-batch.
        function: the user's ``compute_loss_func``.

    Raises:
        ValueError: the model gave no loss.
    """
    count = batch.count(ROWS)
    if function is not None:
        mean = function(outputs, batch.labels, num_items_in_batch=count.clamp(min=1))
    elif isinstance(outputs, Mapping) and "loss" not in outputs:
        raise ValueError(
            f"The task loss is the model's own, but {type(student).__name__} gave none for labels (outputs: "
            f"{', '.join(outputs)}). Leave task out of the losses, or pass compute_loss_func to the trainer."
        )
    else:
        mean = outputs["loss"] if isinstance(outputs, Mapping) else outputs[0]
    # Of no rows, where a process has duplicates only, a mean is NaN.
    return torch.where(count > 0, mean.float() * count, 0.0)


def router_loss(student: nn.Module, outputs: Any, batch: Batch) -> Tensor | None:
    """A mixture-of-experts student's load-balancing loss, which its own loss would have contained.

    It is not linear in the batch, so it is the one term that depends on how a step is cut.
    """
    aux = outputs.get("aux_loss") if isinstance(outputs, Mapping) else None
    if aux is None:
        return None
    coefficient = float(getattr(student.config, "router_aux_loss_coef", 0.0))
    weighted: Tensor = aux * coefficient * batch.count(ROWS)
    return weighted
