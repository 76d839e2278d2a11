"""Properties that show in trainings only; the same for row losses and batch losses."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from ..plugins.manager import Plugins
from ..students import load_student
from ..trainer import DistillationTrainer
from ..training.loss_state import ATTRIBUTE, FILE
from .subject import NUM_EXAMPLES, Subject
from .verdicts import require, require_near

LEARNING_RATE = 8.0  # large, so that rounding of the weights does not drown a small gradient
CUTS = ((NUM_EXAMPLES, 1), (2, 2), (1, NUM_EXAMPLES))


def cut_invariance(subject: Subject) -> None:
    """Means of means: a gradient that depends on how a step is cut into micro-batches."""
    (whole, *others) = [one_step(subject, micro_batch, accumulation) for micro_batch, accumulation in CUTS]
    compare_steps(others, whole, names=[f"{size} x {count}" for size, count in CUTS[1:]])


def one_step(subject: Subject, micro_batch: int, accumulation: int) -> dict[str, Tensor]:
    """What a step of plain SGD does: the gradients by parameter, and the loss's buffers after it."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = subject.trainer(
            folder,
            micro_batch=micro_batch,
            accumulation=accumulation,
            max_steps=1,
            optim="sgd",
            learning_rate=LEARNING_RATE,
        )
        before = {name: parameter.detach().clone() for name, parameter in trainer.student.named_parameters()}
        trainer.train()
    after = dict(trainer.student.named_parameters())
    gradients = {name: (before[name].double() - after[name].detach().double()) / LEARNING_RATE for name in before}
    return gradients | {name: value.double() for name, value in _loss_buffers(trainer).items()}


def compare_steps(
    found: Sequence[dict[str, Tensor]], whole: dict[str, Tensor], *, names: Sequence[str], tolerance: float = 1e-4
) -> None:
    """Fail unless steps that were cut differently did the same.

    Args:
        found: what `one_step` gave for some cuts.
        whole: what it gave for all examples at once.
        names: of the cuts.
        tolerance: relative to the gradient of all parameters.

    Raises:
        AssertionError: they did not.
    """
    parameters = [name for name in whole if not name.startswith("buffer ")]
    gradient = _joined(whole, parameters)
    require(gradient.norm().item() > 0, "the student gets no gradient.")
    for cut, step in zip(names, found, strict=True):
        require_near(_joined(step, parameters), gradient, tolerance, f"the gradient of a step cut {cut}")
        for name in whole.keys() - parameters:
            require_near(step[name], whole[name], tolerance, f"the loss's {name} after a step cut {cut}")


def state_round_trip(subject: Subject) -> None:
    """State that a checkpoint loses, or that ends up in the exported student."""
    with tempfile.TemporaryDirectory() as folder:
        straight = subject.trainer(folder, max_steps=4, save_strategy="steps", save_steps=2, learning_rate=1e-3)
        straight.train()
        resumed = subject.trainer(folder, max_steps=4, learning_rate=1e-3)
        resumed.train(resume_from_checkpoint=str(Path(folder) / "checkpoint-2"))
        expected, found = straight.student.state_dict(), resumed.student.state_dict()
        for name, value in expected.items():
            require_near(found[name], value, 1e-6, f"{name} of a run that was resumed half-way")
        _check_export(straight, Path(folder) / "export", Plugins(subject.plugins))


def _check_export(trainer: DistillationTrainer, folder: Path, plugins: Plugins) -> None:
    """Fail unless the saved student is the bare one, and the loss's state lies beside it."""
    student = trainer.student
    trainer.save_model(str(folder))
    assert isinstance(student, PreTrainedModel)
    loading: Any
    if "transforms" in getattr(student.config, "hf_distill", {}):
        loading = load_student(folder, plugins=plugins), {}  # which raises where something does not fit
    else:
        loading = type(student).from_pretrained(folder, output_loading_info=True)
    loaded, report = loading
    require(
        not any(report.values()),
        f"the exported student does not load as it is: {', '.join(f'{k} {v}' for k, v in report.items() if v)}.",
    )
    own = student.state_dict()
    for name, value in loaded.state_dict().items():
        require_near(value, own[name], 0.0, f"{name} of the exported student")
    module = getattr(student, ATTRIBUTE, None)
    state = {} if module is None else module.state_dict()
    saved = load_file(folder / FILE) if (folder / FILE).is_file() else {}
    require(saved.keys() == state.keys(), f"the state beside the student has {sorted(saved)}, not {sorted(state)}.")
    for name, value in state.items():
        require_near(saved[name], value, 0.0, f"{name} beside the exported student")


def _loss_buffers(trainer: DistillationTrainer) -> dict[str, Tensor]:
    module = getattr(trainer.student, ATTRIBUTE, None)
    named: Any = module.named_buffers() if module is not None else ()
    return {f"buffer {name}": buffer.detach().clone() for name, buffer in named}


def _joined(step: dict[str, Tensor], names: Sequence[str]) -> Tensor:
    return torch.cat([step[name].flatten() for name in names])


TRAINING_PROPERTIES: dict[str, Callable[[Subject], None]] = {
    function.__name__: function for function in (cut_invariance, state_round_trip)
}
