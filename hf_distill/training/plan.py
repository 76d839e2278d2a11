"""What a run distils with: plugins, teachers, losses, data, resolved from arguments and fitted to a student."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
from transformers.utils import logging

from ..batch.reader import KeepExtraColumns
from ..batch.signals import StepInfo
from ..batch.views import CollateViews, TeacherView
from ..data.on_policy import BatchGenerator
from ..data.selectors import Selector
from ..losses.base import BatchLoss
from ..losses.mixins import TeacherViewMixin, TrainDatasetMixin
from ..losses.row_functions import accepts_one_column
from ..models.features import Taps, ensure_eager
from ..models.heads import Head, UnsupportedHead
from ..models.vocabulary import check_tokenizers, shared_vocabulary
from ..plugins.manager import Plugins
from ..plugins.registry import ErrorContext, Registry
from ..students import build_student, load_student
from ..teachers.base import Teacher
from ..teachers.local import output_width
from .evaluation import make_metrics
from .loss_state import attach_auxiliary
from .separate_gradients import separate_loss
from .specs import ActiveLoss, default_losses, make_losses, make_teachers

logger = logging.get_logger(__name__)


class Plan:
    """The components of one run.

    Args:
        args: the trainer's arguments; fields of `DistillationArguments` are read where they exist.
        teacher, losses, selector, generator, metrics, plugins: what the constructor was given; goes before `args`.

    Attributes:
        active: whether there is anything that `Trainer` alone would not do.
        distils: whether there are losses (there may be a selector alone).
    """

    def __init__(
        self,
        args: TrainingArguments,
        *,
        teacher: Any = None,
        losses: Sequence[Any] | None = None,
        selector: Any = None,
        generator: Any = None,
        metrics: Sequence[Any] | None = None,
        plugins: Sequence[Any] | None = None,
    ) -> None:
        def chosen(value: Any, name: str) -> Any:
            return value if value is not None else getattr(args, name, None)

        self.seed = args.seed
        self.memory = getattr(args, "loss_memory_mb", 240) * 2**20
        self.plugins = Plugins.of(chosen(plugins, "plugins"))
        self.teachers: dict[str, Teacher] = make_teachers(chosen(teacher, "teacher"), self.plugins)
        self.loss_specs = chosen(losses, "losses")
        selector, generator = chosen(selector, "selector"), chosen(generator, "generator")
        self.selector: Selector | None = _make_component(selector, Selector, self.plugins.selectors, "mixture")
        self.generator: BatchGenerator | None = _make_component(
            generator, BatchGenerator, self.plugins.generators, "on_policy"
        )
        self.metrics = make_metrics(chosen(metrics, "metrics"), self.plugins)
        self.losses: list[ActiveLoss] = []
        self.head: Head | None = None
        self.shared_columns: dict[str, int] = {}
        self.student_taps: tuple[str, ...] = ()

    @property
    def distils(self) -> bool:
        """Whether there are losses beside the task's own."""
        return bool(self.teachers) or self.loss_specs is not None

    @property
    def active(self) -> bool:
        """Whether there is anything to do that `Trainer` would not."""
        return self.distils or bool(self.metrics) or self.selector is not None or self.generator is not None

    @property
    def nested(self) -> bool:
        """Whether losses read nested batches."""
        return any(loss.student_parts for loss in self.losses)

    @property
    def views(self) -> list[TeacherView]:
        """What teachers are shown instead of the student's batch, each once."""
        return list(dict.fromkeys(loss.view for loss in self.losses if loss.view is not None))

    @property
    def columns(self) -> tuple[str, ...]:
        """Data set columns that must reach the step beside the student's inputs."""
        sources: list[Any] = [*self.teachers.values(), *(loss.module for loss in self.losses if loss.module)]
        sources += self.views
        return tuple(dict.fromkeys(column for source in sources for column in source.columns))

    def check(self, args: TrainingArguments) -> None:
        """Refuse arguments that do not go with distillation.

        Raises:
            ValueError: label smoothing, or several GPUs in one process.
        """
        if self.distils and args.label_smoothing_factor != 0:
            raise ValueError(
                f"label_smoothing_factor is {args.label_smoothing_factor}, together with distillation losses. The "
                "teacher's distribution already smooths the labels; set it to 0."
            )
        for metric in self.metrics:
            if metric.metric.needs_teacher and not self.teachers:
                raise ValueError(
                    f"The metric {metric.name!r} compares with a teacher, but none is given. Set teacher=..."
                )
        if args.n_gpu > 1:
            raise ValueError(
                f"One process sees {args.n_gpu} GPUs, so that Trainer would use nn.DataParallel, which copies the "
                "student at every step and leaves the teacher behind. Start one process per GPU: `accelerate launch`."
            )
        if self.distils and not args.average_tokens_across_devices:
            logger.warning_once("average_tokens_across_devices=False is ignored: losses are means over all processes.")

    def make_student(self, spec: Any) -> nn.Module:
        """Load or build the student from `DistillationArguments.student`.

        Raises:
            ValueError: there is nothing to build from, or the builder refuses.
        """
        if isinstance(spec, str):
            return load_student(spec, plugins=self.plugins)
        options = dict(spec)
        if "builder" not in options:
            raise ValueError(f"student is {spec!r}; expected a folder or hub name, or {{builder: ..., ...options}}.")
        source = next(filter(None, (teacher.weights() for teacher in self.teachers.values())), None)
        if source is None:
            raise ValueError("A student is built from a teacher's model, but no teacher with a model is given.")
        assert isinstance(source, PreTrainedModel), "builders take models of transformers"
        try:
            student = build_student(source, plugins=self.plugins, **options).model
            return student.float() if student.dtype == torch.float16 else student  # float16 is for teachers
        except RuntimeError as error:
            if source.device.type != "meta":
                raise
            raise ValueError(
                f"The builder {options['builder']!r} takes the teacher's weights, and a cache has none. Give the cache "
                "a source, or name a student that is built already (student: path)."
            ) from error

    def fit(self, student: nn.Module, tokenizer: PreTrainedTokenizerBase | None, *, whole_logits: bool) -> None:
        """Make the losses for this student: check them, create what they own, and attach that to the student.

        Args:
            student: unwrapped, before `Trainer` builds an optimizer for it.
            tokenizer: the student's.
            whole_logits: keep the student's head where it is (FSDP shards it out of reach).

        Raises:
            ValueError: a loss does not fit the models, or models do not fit each other.
        """
        if not self.distils:
            return
        if any(p.dtype == torch.float16 and p.requires_grad for p in student.parameters()):
            raise ValueError(
                "The student's weights are float16, in which small updates vanish and losses become NaN. Load it with "
                'dtype="float32", and pass fp16=True (or bf16=True) for mixed precision.'
            )
        for name, teacher in self.teachers.items():
            _refuse_shared_parameters(student, teacher.model, name)
        specs = default_losses(student) if self.loss_specs is None else self.loss_specs
        self.losses = make_losses(specs, self.teachers, self.plugins)
        if not self.losses:
            raise ValueError("losses is an empty list: nothing to train on. Leave it out for the default.")
        try:
            self.head = None if whole_logits else Head.of(student)
        except UnsupportedHead as reason:
            logger.warning_once(f"The student projects whole batches to logits: {reason}")
        self._make_views(tokenizer)
        self._check_readers(student, tokenizer)
        self._check_logits(student, tokenizer)
        self._check_generator()
        if self.nested and self.metrics:
            raise ValueError(
                f"The metric {self.metrics[0].name!r} reads flat batches, and the losses read nested ones. "
                "Leave metrics out, and give compute_metrics."
            )
        separate_loss(self.losses)
        with torch.random.fork_rng():  # what losses create must not change the run's other random numbers
            torch.manual_seed(self.seed)
            for loss in self.losses:
                if loss.module is not None:
                    model = self.teachers[loss.teachers[0]].model if loss.teachers else None
                    loss.module.setup(student, model, tokenizer)
        self._request_features(student)
        attach_auxiliary(student, self.losses)

    def _make_views(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        for loss in self.losses:
            if isinstance(loss.function, TeacherViewMixin) and loss.teachers:
                (name,) = loss.teachers
                loss.function.view = loss.function.make_teacher_view(
                    tokenizer, self.teachers[name].tokenizer, teacher=name
                )
        columns = [column for view in self.views for column in view.columns]
        if len(set(columns)) < len(columns):
            labels = ", ".join(repr(loss.label) for loss in self.losses if loss.view is not None)
            raise ValueError(
                f"The losses {labels} show a teacher different views of one batch. Give them the same options, or give "
                "the teacher twice, under two names."
            )

    def _check_readers(self, student: nn.Module, tokenizer: PreTrainedTokenizerBase | None) -> None:
        """Refuse teachers that would read token ids of another tokenizer."""
        if tokenizer is None:
            return
        readers = {
            name: f"the loss {loss.label!r}"
            for loss in self.losses
            if isinstance(loss.function, BatchLoss) and loss.view is None and not loss.teacher_parts
            for name in loss.teachers
        }
        for name in list(self.teachers)[:1]:  # whom selectors and generators ask
            if self.selector is not None and self.selector.needs_probe:
                readers[name] = f"the selector {type(self.selector).__name__}"
            if self.generator is not None and self.generator.needs_teacher:
                readers[name] = f"the generator {type(self.generator).__name__}"
        for name, reader in readers.items():
            teacher = self.teachers[name]
            teacher.check_tokenizer(tokenizer)
            if teacher.tokenizer is not None:
                check_tokenizers(
                    student, tokenizer, teacher.tokenizer, teacher_name=getattr(teacher, "name", name), reader=reader
                )

    def _check_logits(self, student: nn.Module, tokenizer: PreTrainedTokenizerBase | None) -> None:
        width = self.head.vocab_size if self.head is not None else output_width(student)
        for loss in self.losses:
            if loss.function is None or not loss.is_row or not loss.teachers:
                continue
            if width == 1 and not accepts_one_column(loss.function):
                raise ValueError(
                    f"The student has one output column, of which every softmax is 1, so that {loss.label!r} would be "
                    "zero forever. Use logit_mse for regression, or mark a loss of yours that compares the logits "
                    "themselves: @row_loss(accepts_one_column=True)."
                )
            for name in loss.teachers:
                self._share_columns(name, student, width, tokenizer)

    def _share_columns(
        self, name: str, student: nn.Module, width: int | None, tokenizer: PreTrainedTokenizerBase | None
    ) -> None:
        teacher = self.teachers[name]
        if tokenizer is not None:
            teacher.check_tokenizer(tokenizer)
        if self.head is not None and (tokenizer is None or teacher.tokenizer is None):
            logger.warning_once(
                "The tokenizers are not both known, so vocabularies are compared by their size alone. Give the "
                "trainer processing_class=tokenizer, and the teacher its own where it has none beside it."
            )
        if width is not None and teacher.vocab_size is not None:
            self.shared_columns[name] = shared_vocabulary(
                student,
                width,
                tokenizer,
                teacher.model,
                teacher.vocab_size,
                teacher.tokenizer,
                teacher_name=getattr(teacher, "name", name),
            )

    def _check_generator(self) -> None:
        if self.generator is None:
            return
        name = type(self.generator).__name__
        if self.generator.writes_labels and any(loss.is_task for loss in self.losses):
            raise ValueError(
                f"The generator {name} makes labels of the student's own words, and the task loss would train the "
                'student to repeat itself. Leave "task" out: losses=["reverse_kl"] for instance.'
            )
        if self.generator.needs_teacher and not self.teachers:
            raise ValueError(f"The generator {name} compares with a teacher, but none is given. Set teacher=...")

    def _request_features(self, student: nn.Module) -> None:
        """Ask each model for what the losses read, and for no more."""
        features = [loss.function for loss in self.losses if isinstance(loss.function, BatchLoss)]
        self.student_taps = tuple(dict.fromkeys(name for loss in features for name in loss.student_taps))
        if Taps(student, self.student_taps).requires_eager:
            ensure_eager(student, "student")
        for name, teacher in self.teachers.items():
            listeners = [loss for loss in self.losses if name in loss.teachers]
            batch_losses = [loss.function for loss in listeners if isinstance(loss.function, BatchLoss)]
            taps = tuple(dict.fromkeys(tap for loss in batch_losses for tap in loss.teacher_taps))
            rows = any(loss.is_row for loss in listeners) or any(loss.needs_teacher_rows for loss in batch_losses)
            probed = self.selector is not None and self.selector.needs_probe
            compared = self.generator is not None and self.generator.needs_teacher
            measured = name == next(iter(self.teachers)) and any(one.metric.needs_teacher for one in self.metrics)
            teacher.request(rows=rows or probed or compared or measured, taps=taps)

    def pass_train_dataset(self, dataset: Any) -> None:
        """Let the losses look at the training data, if there is any."""
        for loss in self.losses:
            if isinstance(loss.function, TrainDatasetMixin) and dataset is not None:
                with ErrorContext(loss.source):
                    loss.function.on_train_dataset(dataset)

    def wrap_collator(self, collator: Any) -> Any:
        """The trainer's collator, whose batches have the columns of losses, teachers and views, too."""
        if self.columns:
            collator = KeepExtraColumns(collator, self.columns)
        return CollateViews(collator, self.views) if self.views else collator

    def end_step(self, *, step: int, max_steps: int, losses: Callable[[], dict[str, float]]) -> None:
        """Move state of losses that moves with the steps; once per optimizer step, on every process.

        Args:
            step: optimizer steps finished.
            max_steps: of the run.
            losses: gives the losses' means over the step; collective, so it is called only where somebody reads them.
        """
        modules = [loss.module for loss in self.losses if loss.module is not None and loss.module.has_step_state]
        if modules:
            info = StepInfo(step=step, max_steps=max_steps, losses=losses())
            for module in modules:
                module.on_step_end(info)

    def describe(self, student: nn.Module) -> str:
        """One line for the log: who learns what from whom."""
        terms = []
        for loss in self.losses:
            temperature = f" (T = {loss.temperature:g})" if loss.is_row and loss.temperature != 1 else ""
            source = f" of {' and '.join(loss.teachers)}" if loss.teachers and len(self.teachers) > 1 else ""
            terms.append(f"{loss.weight} x {loss.label}{temperature}{source}")
        size = sum(parameter.numel() for parameter in student.parameters())
        doing = "Distilling" if self.teachers else "Training"
        return f"{doing} {type(student).__name__} ({size:,} parameters): loss = {' + '.join(terms)}"

    def versions(self) -> Mapping[str, str]:
        """Names and versions of the active plugins, for checkpoints."""
        return self.plugins.versions()


def uses_fsdp(args: TrainingArguments) -> bool:
    """Whether FSDP will wrap the student; known before there is an accelerator to ask."""
    return bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def _make_component(spec: Any, kind: type[Any], registry: Registry, example: str) -> Any:
    """A component from a name, a mapping of name and options, or itself."""
    if spec is None or isinstance(spec, kind):
        return spec
    options = {"name": spec} if isinstance(spec, str) else dict(spec)
    if "name" not in options:
        raise ValueError(f"The {registry.label} {spec!r} has no name. Say which: {{'name': {example!r}, ...}}.")
    made = registry.create(name := options.pop("name"), options)
    if not isinstance(made, kind):
        raise ValueError(f"{registry.get(name)} makes a {type(made).__name__}; expected a {kind.__name__}.")
    return made


def _refuse_shared_parameters(student: nn.Module, teacher: nn.Module | None, name: str) -> None:
    if teacher is None:
        return
    student_parameters = {id(parameter) for parameter in student.parameters()}
    if any(id(parameter) in student_parameters for parameter in teacher.parameters()):
        raise ValueError(
            f"The student and the teacher {name!r} share parameters; freezing the teacher would freeze the student. "
            "Pass a copy: teacher=copy.deepcopy(model)."
        )
