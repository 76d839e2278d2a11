"""The gradient of one loss, kept apart from that of all others until an optimizer step is complete.

For each micro-batch `SeparateGradient.add`, before the others' backward pass; once `merge`, when theirs is complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from ..losses.mixins import GradientMergingMixin
from ..plugins.registry import ErrorContext
from .specs import ActiveLoss

# These divide gradients between processes as they come, and have no place for a second one.
_DIVIDING = (DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM)


def is_separate(loss: ActiveLoss) -> bool:
    """Whether the gradient of this loss is kept apart."""
    return isinstance(loss.function, GradientMergingMixin) and loss.function.separate_gradients


def separate_loss(losses: Sequence[ActiveLoss]) -> ActiveLoss | None:
    """The loss whose gradient is kept apart, if there is one.

    Raises:
        ValueError: there are several, or there is nothing beside it.
    """
    found = [loss for loss in losses if is_separate(loss)]
    if len(found) > 1 or (found and len(losses) == 1):
        names = " and ".join(repr(loss.label) for loss in found)
        raise ValueError(
            f"{names} puts its gradient together with that of the other losses, but "
            + ("there are no others. Name one beside it, task for instance." if len(found) == 1 else "only one may.")
        )
    return found[0] if found else None


class SeparateGradient:
    """Collects the gradient of one loss over the micro-batches of a step.

    Args:
        loss: whose it is.
        parameters: the student's, those of the losses among them.
    """

    def __init__(self, loss: ActiveLoss, parameters: Iterable[nn.Parameter]) -> None:
        self.loss = loss
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._gradients: list[Tensor | None] = [None] * len(self.parameters)

    def check(self, accelerator: Accelerator) -> None:
        """Refuse launches that have no whole gradients.

        Raises:
            ValueError: DeepSpeed, FSDP or Megatron-LM.
        """
        if accelerator.distributed_type in _DIVIDING:
            raise ValueError(
                f"The loss {self.loss.label!r} needs its gradient and that of the other losses each as a whole, but "
                f"{accelerator.distributed_type.value} divides gradients between processes as they come. Launch with "
                "DDP, or turn that option of the loss off."
            )

    def add(self, value: Tensor, accelerator: Accelerator) -> None:
        """Add the gradient of a micro-batch, on this process; the graph stays for the other losses."""
        scaler = getattr(accelerator, "scaler", None)
        value = value if scaler is None else scaler.scale(value)  # as the others' are, in float16
        gradients = torch.autograd.grad(value, self.parameters, retain_graph=True, allow_unused=True)
        for index, gradient in enumerate(gradients):
            known = self._gradients[index]
            if gradient is not None:
                self._gradients[index] = gradient if known is None else known.add_(gradient)

    @torch.no_grad()
    def merge(self, accelerator: Accelerator) -> None:
        """Put both gradients together, where the optimizer looks for them; all micro-batches and processes are done."""
        assert isinstance(self.loss.function, GradientMergingMixin)
        if all(gradient is None for gradient in self._gradients):
            return
        pairs = zip(self.parameters, self._gradients, strict=True)
        involved = [(p, gradient) for p, gradient in pairs if gradient is not None or p.grad is not None]
        separate = [torch.zeros_like(p) if gradient is None else gradient for p, gradient in involved]
        others = [torch.zeros_like(p) if p.grad is None else p.grad for p, _ in involved]
        separate = [accelerator.reduce(gradient, reduction="mean") for gradient in separate]  # as DDP does the others
        with ErrorContext(self.loss.source):
            merged = self.loss.function.merge_gradients(separate, others)
        for (parameter, _), gradient in zip(involved, merged, strict=True):
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad.copy_(gradient)
        self._gradients = [None] * len(self.parameters)
