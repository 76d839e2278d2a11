"""Every hook of hf_distill: the contract with plugins.

A plugin is a module (or an object) whose functions carry the marker `hf_distill.hookimpl` and the name of a hook. It
implements the hooks that it needs and takes those of their arguments that it uses. Registration hooks say what a plugin
offers; the two events mark when a training starts and ends. Nothing is called through hooks inside a training step:
what happens at every step is a loss, a selector or a `transformers.TrainerCallback`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

if TYPE_CHECKING:
    from .trainer import DistillationTrainer

hookspec = pluggy.HookspecMarker("hf_distill")
hookimpl = pluggy.HookimplMarker("hf_distill")

Target = Callable[..., Any] | str
"""A component, or where it stands: ``"module:attribute"``, imported when the component is first used."""


class Register(Protocol):
    """Registers one component under a name in snake_case."""

    def __call__(self, name: str, target: Target, *, kind: str = ...) -> None:
        """Register `target` as `name`, among the components of a kind where there are several."""


class RegisterKind(Protocol):
    """Registers one kind of components."""

    def __call__(self, family: str, kind: str, label: str) -> None:
        """Let ``register_<family>`` take ``kind=kind``; `label` is what such a component is called in messages."""


class RegisterCommand(Protocol):
    """Registers one sub-command of ``hf-distill``."""

    def __call__(self, name: str, target: Target, *, help: str = "") -> None:
        """Register `target` as `name`; `help` is its line in ``hf-distill --help``."""


@hookspec
def register_kinds(register: RegisterKind) -> None:
    """Register kinds of components that the core does not know, for whoever registers and uses some.

    Args:
        register: takes what follows ``register_`` in the name of a hook, the kind, and what such a component is called.

    When and where: when the plugin is activated, or another one that has a component of this kind; on every process.
    Must not communicate.

    Example:
        >>> @hf_distill.hookimpl
        ... def register_kinds(register):
        ...     register("teachers", "vision", "vision teacher")
    """


@hookspec
def register_losses(register: Register) -> None:
    """Register losses, to be named in the training's `losses`.

    Args:
        register: takes a name and a row loss (a function of student and teacher logits, both ``[n, V]``, giving
            ``[n]``; or a `RowLoss`) or a `BatchLoss`. Further parameters of the function, or those of the class, are
            its options.

    When and where: when the plugin is activated, or a component is looked for; on every process. Must not communicate.

    Example:
        >>> @hf_distill.hookimpl
        ... def register_losses(register):
        ...     register("tvd", "hf_distill_tvd.loss:tvd")
    """


@hookspec
def register_teachers(register: Register) -> None:
    """Register sources of the teacher's signal (local models, ensembles, caches, servers) and teachers that write text.

    Args:
        register: takes a name, a `Teacher` class (or a function that returns a teacher), and `kind`: "signal" (the
            default), or "text" for a `TextTeacher`, which generators prompt.

    When and where: when the plugin is activated, or a component is looked for; on every process. Must not communicate.

    Example:
        >>> @hf_distill.hookimpl
        ... def register_teachers(register):
        ...     register("vote", "hf_distill_vote.teacher:VotingTeacher")
    """


@hookspec
def register_selectors(register: Register) -> None:
    """Register selectors, which say what examples are trained on next.

    Args:
        register: takes a name and a `Selector` class.

    When and where: when the plugin is activated, or a component is looked for; on every process. Must not communicate.

    Example:
        >>> @hf_distill.hookimpl
        ... def register_selectors(register):
        ...     register("ddk", "hf_distill_ddk.selector:DomainSelector")
    """


@hookspec
def register_generators(register: Register) -> None:
    """Register generators, which rewrite batches inside of a training, or make new data between rounds.

    Args:
        register: takes a name, a generator class, and `kind`: "batch" (the default) for a `BatchGenerator`, "round" for
            a `RoundGenerator`.

    When and where: when the plugin is activated, or a component is looked for; on every process. Must not communicate.

    Example:
        >>> @hf_distill.hookimpl
        ... def register_generators(register):
        ...     register("paraphrase", "hf_distill_paraphrase.generator:Paraphraser")
    """


@hookspec
def register_students(register: Register) -> None:
    """Register student builders (a new model from a teacher) and transforms (a model changed in place).

    Args:
        register: takes a name, a function of the teacher or the model, and `kind`, "builder" (the default) or
            "transform". The function's keyword parameters are its options.

    When and where: when the plugin is activated, or a component is looked for; on every process. Must not communicate.

    Example:
        >>> @hf_distill.hookimpl
        ... def register_students(register):
        ...     register("binarise", "hf_distill_binary.transform:binarise", kind="transform")
    """


@hookspec
def register_metrics(register: Register) -> None:
    """Register metrics, which compare student, teacher and labels on the evaluation data, where `metrics` names them.

    Args:
        register: takes a name and a `Metric` class; parameters of its constructor are its options.

    When and where: when the plugin is activated, or a component is looked for; on every process. Must not communicate.

    Example:
        >>> @hf_distill.hookimpl
        ... def register_metrics(register):
        ...     register("loyalty", "hf_distill_loyalty.metric:Loyalty")
    """


@hookspec
def register_commands(register: RegisterCommand) -> None:
    """Register sub-commands of ``hf-distill``.

    Args:
        register: takes a name, a function of the remaining command line (``list[str]``) that returns the exit status,
            and `help`, one line. A target given as ``"module:attribute"`` keeps ``hf-distill --help`` fast.

    When and where: when ``hf-distill`` looks for a command; the function is imported only when it runs.

    Example:
        >>> @hf_distill.hookimpl
        ... def register_commands(register):
        ...     register("label", "hf_distill_label.command:label", help="Label a data set with a teacher.")
    """


@hookspec
def training_started(trainer: DistillationTrainer) -> None:
    """A training is about to take its first step; everything is built, wrapped and, where asked, resumed.

    Args:
        trainer: the trainer, for reading. Per-step work is added as a callback: ``trainer.add_callback(...)``.

    When and where: once per call of `train`, on every process, plugins in order of name. Must not communicate between
    processes, since an error in one plugin would leave the others waiting.

    Example:
        >>> @hf_distill.hookimpl
        ... def training_started(trainer):
        ...     print("training for", trainer.state.max_steps, "steps")
    """


@hookspec
def training_finished(trainer: DistillationTrainer) -> None:
    """A training ended by itself: all steps taken, or stopped early by a callback; not called after an error.

    Args:
        trainer: the trainer, with its final state and log.

    When and where: once per call of `train`, on every process, plugins in order of name. Must not communicate between
    processes.

    Example:
        >>> @hf_distill.hookimpl
        ... def training_finished(trainer):
        ...     print("best metric", trainer.state.best_metric)
    """
