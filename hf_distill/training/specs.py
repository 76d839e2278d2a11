"""From what a user writes (names, mappings, objects) to the teachers and losses of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..batch.views import TeacherView
from ..losses.base import BatchLoss, Loss
from ..losses.mixins import NestedBatchMixin, TeacherViewMixin, check_mixins
from ..losses.schedules import Schedule
from ..plugins.manager import Plugins
from ..teachers.base import Teacher
from ..teachers.local import LocalTeacher

TASK = "task"
DEFAULT_TEACHER = "teacher"
_NO_SIGNAL = (
    "The teacher {!r} writes text and gives no signal for a batch, so it cannot guide a training. Name it as the "
    "teacher of a generator, which makes training data with it, or give the training a model: teacher='folder-or-name'."
)


@dataclass(frozen=True)
class ActiveLoss:
    """One term of the total loss.

    Attributes:
        label: what it is called in logs; unique in a run.
        function: a row loss or a `BatchLoss`; None for the task's own loss.
        weight: its factor over time.
        temperature: logits of a row loss are divided by it and its values multiplied by its square, so that the
            gradient keeps its size (Hinton et al. 2015, arXiv:1503.02531, section 2).
        teachers: the names of the teachers that it listens to, in the order of its arguments.
        source: where it comes from, for errors.
    """

    label: str
    function: Callable[..., Tensor] | None
    weight: Schedule
    temperature: float = 1.0
    teachers: tuple[str, ...] = (DEFAULT_TEACHER,)
    source: str = "the training script"

    @property
    def is_task(self) -> bool:
        """Whether this is the task's own loss on the labels."""
        return self.function is None

    @property
    def is_row(self) -> bool:
        """Whether it compares logits row by row."""
        return self.function is not None and not isinstance(self.function, BatchLoss)

    @property
    def student_parts(self) -> tuple[str, ...]:
        """The parts of a nested batch that the student is run on for it; none for a loss of flat batches."""
        return self.function.student_parts if isinstance(self.function, NestedBatchMixin) else ()

    @property
    def teacher_parts(self) -> tuple[str, ...]:
        """The parts of a nested batch that its teacher is run on."""
        return self.function.teacher_parts if isinstance(self.function, NestedBatchMixin) and self.teachers else ()

    @property
    def view(self) -> TeacherView | None:
        """How its teacher sees a batch, where not as the student does."""
        return self.function.view if isinstance(self.function, TeacherViewMixin) else None

    @property
    def module(self) -> Loss | None:
        """The loss as a module with state, if it is one."""
        return self.function if isinstance(self.function, Loss) else None


def make_teachers(spec: Any, plugins: Plugins) -> dict[str, Teacher]:
    """Teachers by name from one spec or a list of them.

    Args:
        spec: a model, a `Teacher`, a folder or hub name, a mapping {kind, name, ...options}, a list of these, or None.
        plugins: where kinds of teachers are registered.

    Raises:
        ValueError: two teachers of one name, an unknown kind or option, or a teacher that writes text.
    """
    if spec is None:
        return {}
    specs = list(spec) if isinstance(spec, (list, tuple)) else [spec]
    teachers: dict[str, Teacher] = {}
    for entry in specs:
        name = DEFAULT_TEACHER
        if isinstance(entry, Mapping):
            options = dict(entry)
            name = options.pop("name", DEFAULT_TEACHER)
            kind = options.pop("kind", "local")
            teacher = plugins.teachers.create(kind, options)
        elif isinstance(entry, Teacher):
            teacher = entry
        elif isinstance(entry, (str, Path, nn.Module)):
            teacher = LocalTeacher(entry)
        else:
            raise ValueError(_NO_SIGNAL.format(type(entry).__name__))
        if name in teachers:
            raise ValueError(
                f"Two teachers are called {name!r}. Give each a name of its own: "
                "teacher=[{'name': 'a', ...}, {'name': 'b', ...}]."
            )
        teachers[name] = teacher
    return teachers


def make_losses(specs: Sequence[Any], teachers: Mapping[str, Teacher], plugins: Plugins) -> list[ActiveLoss]:
    """The terms of the total loss from what a user listed.

    Raises:
        ValueError: an unknown name, parameter or teacher, or a temperature that is not positive.
    """
    losses: list[ActiveLoss] = []
    for spec in specs:
        loss = _make_loss(spec, teachers, plugins)
        taken = {other.label for other in losses}
        if loss.label in taken:
            raise ValueError(
                f"Two losses are called {loss.label!r}. Tell them apart in logs and checkpoints with "
                f"{{'name': {loss.label!r}, 'label': '...'}}."
            )
        losses.append(loss)
    return losses


def _make_loss(spec: Any, teachers: Mapping[str, Teacher], plugins: Plugins) -> ActiveLoss:
    if isinstance(spec, str):
        spec = {"name": spec}
    elif not isinstance(spec, Mapping):
        spec = {"function": spec}
    options = dict(spec)
    function: Callable[..., Tensor] | None = options.pop("function", None)
    name = options.pop("name", None) or getattr(function, "__name__", None) or type(function).__name__
    label = options.pop("label", name)
    weight = Schedule.parse(options.pop("weight", 1.0))
    is_option = function is None and name != TASK and _takes_temperature(plugins, name)
    temperature = 1.0 if is_option else options.pop("temperature", 1.0)
    if not isinstance(temperature, (int, float)) or temperature <= 0:
        raise ValueError(f"The temperature of {label!r} is {temperature!r}; expected a positive number.")
    teacher = options.pop("teacher", None)
    if name == TASK and function is None:
        if options or temperature != 1.0 or teacher is not None:
            raise ValueError(f"The task loss takes only a weight, but got {sorted(set(spec) - {'name', 'weight'})}.")
        return ActiveLoss(label=label, function=None, weight=weight, teachers=())
    source = "the training script"
    if function is None:
        function = plugins.losses.create(name, options)
        source = str(plugins.losses.get(name))
    elif options:
        raise ValueError(f"Unknown keys {sorted(options)} beside the loss function {label!r}.")
    if isinstance(function, BatchLoss) and temperature != 1.0:
        raise ValueError(f"{label!r} compares features, not logits; it takes no temperature.")
    if isinstance(function, Loss):
        check_mixins(function, label)
        function.label = label
    return ActiveLoss(
        label=label,
        function=function,
        weight=weight,
        temperature=float(temperature),
        teachers=_choose_teachers(label, function, teacher, teachers),
        source=source,
    )


def _takes_temperature(plugins: Plugins, name: str) -> bool:
    """Whether the temperature is an option of the loss itself: of a batch loss that knows what to divide by it."""
    component = plugins.losses.get(name)
    target = component.resolve()
    if not (isinstance(target, type) and issubclass(target, BatchLoss)):
        return False
    return any(parameter.name == "temperature" for parameter in component.signature.options)


def _choose_teachers(
    label: str, function: Callable[..., Tensor], names: str | Sequence[str] | None, teachers: Mapping[str, Teacher]
) -> tuple[str, ...]:
    if isinstance(function, BatchLoss) and not function.needs_teacher:
        return ()
    if not teachers:
        raise ValueError(f"The loss {label!r} compares with a teacher, but none is given. Set teacher=...")
    if names is None and len(teachers) == 1:
        return (next(iter(teachers)),)
    chosen: tuple[Any, ...] = (names,) if names is None or isinstance(names, str) else tuple(names)
    for name in chosen:
        if name not in teachers:
            there = ", ".join(map(repr, teachers))
            raise ValueError(f"The loss {label!r} names the teacher {name!r}; there are {there}.")
    if len(chosen) != 1 and isinstance(function, BatchLoss):
        raise ValueError(f"{label!r} compares features with one teacher, but names {len(chosen)}: {', '.join(chosen)}.")
    return chosen


def default_losses(student: nn.Module) -> list[dict[str, Any]]:
    """What a teacher teaches when nobody says how: the task and the teacher's distribution, in equal parts.

    A regression head has one column, of which every softmax is 1: there the values themselves are compared.
    """
    config = getattr(student, "config", None)
    regression = getattr(config, "problem_type", None) == "regression" or (
        "SequenceClassification" in type(student).__name__ and getattr(config, "num_labels", 2) == 1
    )
    return [
        {"name": TASK, "weight": 0.5},
        {"name": "logit_mse" if regression else "forward_kl", "weight": 0.5},
    ]
