"""What a stage is: a mapping, checked before anything runs.

{"name": "task", "teacher": {"stage": "general"}, "data": {...}, "losses": [...], "trainable": ["classifier.*"],
 "stop": {"metric": "eval_loss", "patience": 3}, "max_steps": 1000}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ..arguments import DistillationArguments
from ..plugins.manager import Plugins
from ..plugins.registry import did_you_mean
from .stage_stop import StopRule

PREVIOUS, INITIAL = "previous", "initial"
# What a run decides for all of its stages, or the driver itself.
_OF_THE_RUN = ("output_dir", "plugins", "stages", "tokenizer", "resume_from_checkpoint")
# Fields that change what is seen of a stage, not what comes of it.
_WITHOUT_EFFECT = ("logging_", "save_", "report_to", "disable_tqdm", "dataloader_num_workers", "run_name")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training of a run in stages.

    Attributes:
        name: of the stage and of its folder.
        student: what is trained: by default the student of the stage before, in the first stage that of the run.
            ``{"stage": name}`` is the student of an earlier stage ("previous", or "initial" for the run's own).
            ``{"builder": name, "from": source, ...}`` is built from a folder, a hub name or, where it is such a
            ``{"stage": name}``, from an earlier student rather than from a teacher; other options of the builder may
            be stages, too. Anything else is what `DistillationArguments.student` takes, a model, or a function that
            makes one.
        model_class: a class of transformers that takes over the student's weights, with new ones where it has others (a
            head); ``{"name": ..., field: value}`` changes fields of its configuration, too.
        transform: names or ``{"name": ..., option: value}`` of transforms to apply as the stage begins.
        trainable: patterns such as ``bert.encoder.layer.*`` of the parameters that are trained; all by default. What
            losses own is always trained.
        teacher: what `DistillationTrainer` takes; ``{"stage": name}`` is the student of an earlier stage.
        losses, selector, generator: what `DistillationTrainer` takes.
        data: see `hf_distill.data.training_data`.
        stop: see `StopRule`.
        arguments: other fields of `DistillationArguments`.
    """

    name: str
    student: Any = None
    model_class: str | Mapping[str, Any] | None = None
    transform: str | Mapping[str, Any] | Sequence[Any] | None = None
    trainable: str | Sequence[str] | None = None
    teacher: Any = None
    losses: Any = None
    selector: Any = None
    generator: Any = None
    data: Any = None
    stop: StopRule | Mapping[str, Any] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, spec: Mapping[str, Any]) -> Stage:
        """A stage from a mapping of its own fields and those of `DistillationArguments`.

        Raises:
            ValueError: no name or one that is no folder's, an unknown field, or one that belongs to the whole run.
        """
        own = [one.name for one in fields(cls) if one.name != "arguments"]
        of_trainer = [one.name for one in fields(DistillationArguments) if one.init and one.name not in _OF_THE_RUN]
        name = spec.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name) or name in (PREVIOUS, INITIAL):
            raise ValueError(
                f"A stage is called {name!r}; expected a name of letters, digits, '-' and '_', other than "
                f"{PREVIOUS!r} and {INITIAL!r}."
            )
        for key in spec:
            if key in _OF_THE_RUN:
                raise ValueError(f"The stage {name!r} sets {key}, which is said once for all stages.")
            if key not in own and key not in of_trainer:
                hint = did_you_mean(str(key), [*own, *of_trainer])
                raise ValueError(
                    f"The stage {name!r} has an unknown field {key!r}{hint}. A stage takes {', '.join(own)}, and the "
                    "fields of DistillationArguments."
                )
        values = {key: spec[key] for key in own if key in spec}
        if values.get("stop") is not None:
            values["stop"] = StopRule.parse(values["stop"], stage=name)
        return cls(**values, arguments={key: value for key, value in spec.items() if key not in own})

    @property
    def transforms(self) -> list[dict[str, Any]]:
        """The transforms, each a mapping with a name."""
        given = [] if self.transform is None else self.transform
        listed = [given] if isinstance(given, (str, Mapping)) else given
        return [{"name": one} if isinstance(one, str) else dict(one) for one in listed]

    @property
    def patterns(self) -> list[str] | None:
        """The patterns of trainable parameters, None for all."""
        if self.trainable is None:
            return None
        return [self.trainable] if isinstance(self.trainable, str) else list(self.trainable)

    @property
    def teachers(self) -> list[Any]:
        """What was said of each teacher."""
        if self.teacher is None:
            return []
        return list(self.teacher) if isinstance(self.teacher, (list, tuple)) else [self.teacher]

    def described(self) -> dict[str, Any]:
        """What decides the outcome of the stage, as JSON: objects by their kind alone."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("arguments", "name")}
        values |= {k: v for k, v in self.arguments.items() if not k.startswith(_WITHOUT_EFFECT)}
        described: dict[str, Any] = as_json({key: value for key, value in values.items() if value is not None})
        return described


def parse_stages(specs: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any], plugins: Plugins) -> list[Stage]:
    """All stages, each with what it does not say itself from `defaults`.

    Raises:
        ValueError: no stages, two of one name, a stage that is referred to and not earlier, or an unknown transform.
    """
    for key in ("name", "model_class", "transform", "student"):
        if key in defaults:
            raise ValueError(f"{key} belongs to one stage; give it there, not beside the stages.")
    stages: list[Stage] = []
    for spec in specs:
        if not isinstance(spec, Mapping):
            raise ValueError(f"A stage is {spec!r}; expected a mapping {{name: ..., losses: ..., ...}}.")
        stage = Stage.parse({**defaults, **spec})
        earlier = [other.name for other in stages]
        if stage.name in earlier:
            raise ValueError(f"Two stages are called {stage.name!r}; give each a name of its own.")
        students = [stage.student, *(stage.student.values() if isinstance(stage.student, Mapping) else ())]
        named = [("student", one) for one in students] + [("teacher", one) for one in stage.teachers]
        for what, one in named:
            if (wanted := reference(one)) is not None:
                _check_reference(stage.name, what, wanted, earlier)
        for transform in stage.transforms:
            if "name" not in transform:
                raise ValueError(f"The stage {stage.name!r} has a transform without a name: {transform}.")
            plugins.transforms.get(transform["name"])
        if isinstance(stage.student, Mapping) and isinstance(builder := stage.student.get("builder"), str):
            plugins.students.get(builder)
        stages.append(stage)
    if not stages:
        raise ValueError("stages is empty; expected a list of {name: ..., ...}.")
    return stages


def reference(spec: Any) -> str | None:
    """The stage that a student or teacher is taken from, if from one."""
    return str(spec["stage"]) if isinstance(spec, Mapping) and "stage" in spec else None


def _check_reference(stage: str, what: str, wanted: str, earlier: Sequence[str]) -> None:
    if wanted == INITIAL and what == "student":
        return
    if wanted == PREVIOUS and earlier:
        return
    if wanted not in earlier:
        there = f"there are {', '.join(earlier)}" if earlier else "it is the first one"
        raise ValueError(
            f"The stage {stage!r} takes its {what} from the stage {wanted!r}, which is none of the earlier "
            f"ones{did_you_mean(wanted, earlier)}; {there}."
        )


def as_json(value: Any) -> Any:
    """What JSON can hold of a value: of objects, their kind."""
    if isinstance(value, Mapping):
        return {str(key): as_json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(one) for one in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, StopRule):
        return as_json(vars(value))
    return f"<{getattr(value, '__qualname__', type(value).__qualname__)}>"
