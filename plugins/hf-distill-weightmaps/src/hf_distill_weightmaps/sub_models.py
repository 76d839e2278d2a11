"""The first stage of bert2BERT: in every step a sub-model of random depth runs, and only its top is trained."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill import Batch, BatchLoss, Paper, Signal, StepInfo

from .families import family_of


class SubModels(BatchLoss):
    """Lets sub-models of random depth run while the student trains; adds nothing to the loss itself.

    In each optimizer step the student consists of its first d blocks, with d drawn equally among `block`, 2 `block`,
    ... and the whole depth; the losses beside this one (name `task`) train its top `block` blocks and what follows
    them. Lower blocks run without gradient, higher ones do not run. Evaluation and the saved student are the whole
    model. The next stage, without this loss, trains all of it.

    After the paper's description: Chen et al. 2022, "bert2BERT", arXiv:2110.07143, where l_b is 3 and the
    first 5 of 40 epochs are trained so. Where d is `block`, embeddings are not trained unless the head is tied to them.
    DDP with gradient checkpointing needs ``ddp_find_unused_parameters: true``.

    Args:
        block: l_b, how many blocks are trained at a time.
        seed: of the depths; they are the same on every process.

    Raises:
        ValueError: `block` below 1.
    """

    paper = Paper("Chen et al.", 2022, name="bert2BERT", arxiv="2110.07143")
    items = "examples"
    needs_teacher = False
    step: Tensor
    _depth: int | None = None  # not known yet, or that of another step than is resumed from

    def __init__(self, *, block: int = 3, seed: int = 0) -> None:
        super().__init__()
        if block < 1:
            raise ValueError(f"block is {block}; expected how many blocks are trained at a time, at least 1.")
        self.block = block
        self.seed = seed
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    def setup(self, student: nn.Module, teacher: nn.Module | None, tokenizer: Any) -> None:
        """Let the student's blocks ask which of them take part.

        Raises:
            ValueError: an unknown family, or as few blocks as are trained at a time.
        """
        blocks = blocks_of(student)
        if len(blocks) <= self.block:
            raise ValueError(f"block is {self.block}, but the student has {len(blocks)} blocks; expected fewer.")
        self.depths = sorted({*range(self.block, len(blocks), self.block), len(blocks)})
        for index, module in enumerate(blocks):
            module.forward = _Turn(self, student, module, index)

    def on_step_end(self, info: StepInfo) -> None:
        """Draw the next depth."""
        self.step.fill_(info.step)
        self._depth = self.draw(info.step)

    def draw(self, step: int) -> int:
        """How many blocks run in the step that follows `step` finished ones."""
        generator = torch.Generator().manual_seed((self.seed << 32) + step)
        depth: int = self.depths[int(torch.randint(len(self.depths), (), generator=generator))]
        return depth

    @property
    def depth(self) -> int:
        """How many blocks run now."""
        depth: int = self.draw(int(self.step)) if self._depth is None else self._depth
        self._depth = depth
        return depth

    def forward(self, student: Signal, teacher: Signal, batch: Batch) -> Tensor:
        """Nothing; the effect is in the blocks."""
        return torch.zeros((), device=batch.token_mask.device)


def blocks_of(model: Any) -> list[nn.Module]:
    """The blocks of a model of a known family, in order.

    Raises:
        ValueError: an unknown family.
    """
    family = family_of(model.config)
    found = [(place, module) for name, module in model.named_modules() if (place := family.place(f"{name}.self"))]
    return [module for place, module in found if place[2] == "self"]


class _Turn:
    """In place of a block's `forward`: runs the block where it takes part, and with gradient where it is trained."""

    def __init__(self, loss: SubModels, student: nn.Module, block: nn.Module, index: int) -> None:
        inner = block.forward
        self.inner: Callable[..., Any] = inner.inner if isinstance(inner, _Turn) else inner
        # The student outlives the loss: another training of it is an ordinary one.
        self.loss, self.student = weakref.ref(loss), weakref.ref(student)
        self.index = index

    def __call__(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        loss, student = self.loss(), self.student()
        if loss is None or student is None or not student.training:
            return self.inner(hidden, *args, **kwargs)
        lowest = loss.depth - loss.block
        if self.index >= loss.depth:
            return hidden
        if self.index < lowest:
            with torch.no_grad():
                return self.inner(hidden, *args, **kwargs)
        return self.inner(hidden.detach() if self.index == lowest else hidden, *args, **kwargs)


def _forget(module: SubModels, incompatible: Any) -> None:
    module._depth = None
