"""The properties of a batch loss. Each check fails with a message, or does nothing."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..batch.signals import Batch, Rows, Signal
from ..losses.base import BatchLoss
from .finite_differences import check_gradients
from .no_values import waiting_fails, without_values
from .subject import NUM_EXAMPLES, Subject
from .verdicts import gradients_of, require, require_finite, require_named_error, require_near


@dataclass(frozen=True)
class Scene:
    """A batch loss, what student and teacher say about a batch, and the batch.

    Attributes:
        loss: set up with the models.
        student, teacher: signals, detached.
        batch: what they are of.
    """

    loss: BatchLoss
    student: Signal
    teacher: Signal
    batch: Batch

    @classmethod
    def of(
        cls,
        subject: Subject,
        *,
        dtype: torch.dtype = torch.float32,
        equal: bool = False,
        num_examples: int = NUM_EXAMPLES,
        num_real: int | None = None,
    ) -> Scene:
        """What a trainer would hand to the loss.

        Args:
            subject: the loss.
            dtype: of the models.
            equal: whether the teacher is a copy of the student.
            num_examples: how many there are in the batch.
            num_real: how many of these are more than duplicates that fill up the batch.
        """
        student, teachers = subject.models()
        for model in (student, *teachers):
            model.to(dtype)  # type: ignore[arg-type]
        if equal:
            teachers = [copy.deepcopy(student) for _ in teachers]
        with tempfile.TemporaryDirectory() as folder:
            trainer = subject.trainer(folder, models=(student, teachers), micro_batch=num_examples)
        batch = trainer.batch_reader.read(next(iter(trainer.get_train_dataloader())), num_real=num_real)
        (active,) = trainer.plan.losses
        loss = active.function
        assert isinstance(loss, BatchLoss)
        if dtype == torch.float64:
            loss.double()
        teacher = Signal()
        with torch.no_grad():
            if active.teachers:
                teacher = trainer.distillation_step.teacher_signal(active.teachers[0], batch, [active], active.view)
            said = trainer.distillation_step.run_student(student, batch, whole_logits=False)
        return cls(loss, said, teacher, batch)

    def value(self) -> Tensor:
        """The sum over the batch, of all parts."""
        return total_of(self.loss(self.student, self.teacher, self.batch))

    def differentiable(self) -> tuple[Scene, list[Tensor]]:
        """The same with tensors of the student that gradients flow to, and these, the loss's parameters at the end."""
        leaves: list[Tensor] = []

        def leaf(tensor: Tensor) -> Tensor:
            if tensor.is_floating_point():
                leaves.append(tensor.detach().clone().requires_grad_())
                return leaves[-1]
            return tensor

        student = mapped(self.student, leaf)
        return replace(self, student=student), [*leaves, *self.loss.parameters()]

    def gradients(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The sum and its gradients."""
        scene, leaves = self.differentiable()
        value = scene.value()
        return value, gradients_of(value, leaves)


def mapped(signal: Signal, function: Callable[[Tensor], Tensor], *, outputs: bool = False) -> Signal:
    """A signal with `function` of each of its tensors.

    Args:
        signal: of the models.
        function: from a tensor to a tensor.
        outputs: whether those in the model's output object, too, which losses read of the parts of a nested batch.
    """
    rows, said = signal.rows, signal.outputs
    if isinstance(rows, Rows) and rows.states is not None:
        rows = replace(rows, states=function(rows.states))
    elif isinstance(rows, Rows) and rows.logits is not None:
        rows = replace(rows, logits=function(rows.logits))
    features = {name: function(tensor) for name, tensor in signal.features.items()}
    if outputs and isinstance(said, Mapping):
        said = {name: function(value) for name, value in said.items() if isinstance(value, Tensor)}
    parts = {name: mapped(part, function, outputs=True) for name, part in signal.parts.items()}
    return Signal(rows=rows, features=features, outputs=said, parts=parts)


def total_of(values: Any) -> Tensor:
    """The sum that a loss returned, or of the named sums."""
    total: Tensor = torch.stack(list(values.values())).sum() if isinstance(values, dict) else values
    require(isinstance(total, Tensor) and total.dim() == 0, f"the loss gave {values!r}; expected a scalar sum.")
    return total


def reference_value(subject: Subject) -> None:
    """Another formula than the published one."""
    assert subject.reference is not None
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.float32, 1e-3)):
        scene = Scene.of(subject, dtype=dtype)
        expected = subject.reference(
            mapped(scene.student, Tensor.double), mapped(scene.teacher, Tensor.double), scene.batch
        )
        require_near(scene.value().detach(), torch.as_tensor(expected), tolerance, f"the value in {dtype}")


def finite_difference_gradient(subject: Subject) -> None:
    """A gradient that is not the derivative of the value."""
    scene, leaves = Scene.of(subject, dtype=torch.float64).differentiable()
    gradients = gradients_of(scene.value(), leaves)
    require(any(bool(gradient.any()) for gradient in gradients), "the gradient is zero.")
    check_gradients(scene.value, leaves, gradients, what="in float64")


def zero_at_equality(subject: Subject) -> None:
    """A student that says what the teacher says and is pushed away all the same."""
    size = Scene.of(subject).value().abs().item()
    value, gradients = Scene.of(subject, equal=True).gradients()
    require(value.abs().item() <= 1e-5 * size + 1e-6, f"the value is {value.item():.3g} ({size:.3g} for another).")
    largest = max(gradient.abs().max().item() for gradient in gradients)
    require(largest <= 1e-4 * size + 1e-6, f"the gradient is {largest:.3g}, and the value {size:.3g} for another.")


def all_rows_masked(subject: Subject) -> None:
    """NaN, or a graph without the loss's parameters, where nothing in a batch counts."""
    scene = Scene.of(subject, num_real=0)
    count = scene.loss.count(scene.batch)
    require(int(count) == 0, f"the count is {count} where every example is masked out; expected 0.")
    value, gradients = scene.gradients()
    require(value.item() == 0.0, f"nothing that counts gives {value.item()}; expected 0.")
    require_finite("nothing that counts", *gradients)
    require(not any(bool(gradient.any()) for gradient in gradients), "nothing that counts gives a gradient.")


def one_example(subject: Subject) -> None:
    """Statistics over examples, a deviation for instance, that one example alone does not have."""
    value, gradients = Scene.of(subject, num_examples=1).gradients()
    require_finite("one example", value, *gradients)


def masked_positions(subject: Subject) -> None:
    """Padding, or the last position, which predicts nothing, that counts: a mask that was not shifted, or none."""
    scene = Scene.of(subject)
    generator = torch.Generator().manual_seed(0)

    def disturbed(signal: Signal, batch: Batch, *, outputs: bool = False) -> Signal:
        mask = batch.row_mask if scene.loss.items == "rows" else batch.token_mask

        def disturb(tensor: Tensor) -> Tensor:
            positions = tensor.shape[-2] if tensor.dim() > 2 else None
            # Where there is one prediction an example, there are no positions to mask.
            if mask.dim() == 1 or tensor.shape[:1] != mask.shape[:1] or positions != mask.shape[1]:
                return tensor
            shape = (len(mask), *[1] * (tensor.dim() - 3), mask.shape[1], 1)
            return torch.where(mask.view(shape), tensor, torch.randn(tensor.shape, generator=generator) * 3)

        parts = {name: disturbed(part, batch.parts[name], outputs=True) for name, part in signal.parts.items()}
        return replace(mapped(replace(signal, parts={}), disturb, outputs=outputs), parts=parts)

    student, teacher = (disturbed(signal, scene.batch) for signal in (scene.student, scene.teacher))
    found = replace(scene, student=student, teacher=teacher).value().detach()
    require_near(found, scene.value().detach(), 1e-5, "the value with noise where nothing counts")


def half_precision(subject: Subject) -> None:
    """Overflow and lost digits where features come in float16 or bfloat16: expected is what float32 gives for them."""
    for dtype in (torch.float16, torch.bfloat16):
        for scale in (1.0, 100.0):
            scene = Scene.of(subject)

            def rounded(tensor: Tensor, scale: float = scale, dtype: torch.dtype = dtype) -> Tensor:
                limit = torch.finfo(torch.float16).max / 2  # masked attention scores stay as low as they can be
                return (tensor * scale).clamp(-limit, limit).to(dtype) if tensor.is_floating_point() else tensor

            half = replace(scene, student=mapped(scene.student, rounded), teacher=mapped(scene.teacher, rounded))
            wide = replace(half, student=mapped(half.student, Tensor.float), teacher=mapped(half.teacher, Tensor.float))
            found, gradients = half.gradients()
            what = f"{dtype} features, {scale:g} times as large as usual"
            require(found.dtype == torch.float32, f"{dtype} features gave a sum in {found.dtype}; expected float32.")
            require_finite(what, found)
            expected, references = wide.gradients()
            require_near(found.detach(), expected.detach(), 1e-3, f"the value of {what}")
            for gradient, reference in zip(gradients, references, strict=True):
                if reference.abs().max() < torch.finfo(dtype).max:
                    underflow = torch.finfo(dtype).tiny * gradient.numel() ** 0.5
                    require_near(gradient, reference, 2e-2, f"a gradient of {what}", absolute=underflow)


def no_host_sync(subject: Subject) -> None:
    """A step that waits for the device: `.item()`, an `if` on a tensor, boolean masks as indices, `.cpu()`."""
    scene = Scene.of(subject)
    scene.loss.to("meta")
    for rows in (scene.student.rows, scene.teacher.rows):
        if isinstance(rows, Rows) and rows.head is not None:
            rows.head.model.to("meta")
    batch = batch_without_values(scene.batch)
    student, teacher = mapped(scene.student, without_values), mapped(scene.teacher, without_values)
    with waiting_fails():
        scene.loss.count(batch)
        replace(scene, student=student, teacher=teacher, batch=batch).gradients()


def batch_without_values(batch: Batch) -> Batch:
    """A batch of the same shapes, and of its parts."""
    parts = {name: batch_without_values(part) for name, part in batch.parts.items()}
    return replace(batch, **{**{name: without_values(value) for name, value in vars(batch).items()}, "parts": parts})


def error_names_plugin(subject: Subject) -> None:
    """A failure that nobody can attribute, or that is swallowed: models that say nothing must raise."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = subject.trainer(folder)
    batch = trainer.batch_reader.read(next(iter(trainer.get_train_dataloader())))
    (active,) = trainer.plan.losses
    silent = dict.fromkeys(active.teachers, Signal())
    step = trainer.distillation_step
    require_named_error(lambda: step._batch_loss(active, Signal(), silent, batch), subject.source)


BATCH_PROPERTIES: dict[str, Callable[[Subject], None]] = {
    function.__name__: function
    for function in (
        reference_value,
        finite_difference_gradient,
        zero_at_equality,
        all_rows_masked,
        one_example,
        masked_positions,
        half_precision,
        no_host_sync,
        error_names_plugin,
    )
}
