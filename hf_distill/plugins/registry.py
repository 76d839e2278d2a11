"""Named components of one kind, imported when first used, their options checked against their signatures.

>>> losses = Registry("loss")
>>> losses.add(Component("losses", "loss", "jsd", "hf_distill.losses.divergences:jsd", "hf_distill"))
>>> loss = losses.create("jsd", {"beta": 0.1})
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ContextDecorator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from ..hookspecs import Target


class PluginError(RuntimeError):
    """A plugin that was asked for does not work.

    Attributes:
        plugin: the plugin, with the package and the version that it came in.
        problem: what it failed at, and how.
    """

    def __init__(self, plugin: str, problem: str) -> None:
        super().__init__(plugin, problem)
        self.plugin = plugin
        self.problem = problem

    def __str__(self) -> str:
        return f"plugin {self.plugin} {self.problem}"


class ErrorContext(ContextDecorator):
    """Adds a component's name and package to errors that leave the block, or the function that this decorates.

    The type of an error stays as it is, so that running out of memory is still recognised further out.
    """

    def __init__(self, source: str) -> None:
        self.note = f"This error came from {source}."

    def __enter__(self) -> ErrorContext:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if not isinstance(error, Exception):
            return
        if hasattr(error, "add_note"):
            error.add_note(self.note)
        else:  # Python 3.10
            error.args = (f"{error} {self.note}",)


@dataclass(frozen=True)
class Parameter:
    """One option of a component; `default` is `inspect.Parameter.empty` where it must be given."""

    name: str
    default: Any

    @property
    def required(self) -> bool:
        """Whether the option must be given."""
        return self.default is inspect.Parameter.empty


@dataclass(frozen=True)
class Component:
    """One entry of a registry.

    Attributes:
        family: what its hook registers, "losses" for instance.
        kind: which kind of these it is.
        name: what it is called in configurations.
        target: the component, or ``"module:attribute"``.
        package: the plugin that registered it, for messages.
        help: one line on what it does, where it was given at registration.
        label: what components of its kind are called; set by the registry that it is in.
    """

    family: str
    kind: str
    name: str
    target: Target
    package: str
    help: str = ""
    label: str = ""

    def __str__(self) -> str:
        return f"{self.label or self.kind} {self.name!r} of {self.package}"

    def resolve(self) -> Callable[..., Any]:
        """The component itself, imported if it was not yet.

        Raises:
            PluginError: it cannot be imported.
        """
        if not isinstance(self.target, str):
            return self.target
        module, _, attribute = self.target.partition(":")
        try:
            found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        except Exception as error:
            problem = f"registers {self.name!r} among its {self.family} as {self.target!r}, which cannot be imported"
            raise PluginError(self.package, f"{problem}: {type(error).__name__}: {error}") from error
        return found

    def summary(self) -> str:
        """What it does, in one line; imports it where no line was given at registration."""
        return self.help or (inspect.getdoc(self.resolve()) or "").partition("\n")[0]

    @functools.cached_property
    def signature(self) -> Signature:
        """How it is made, read once; imports it."""
        return Signature.of(self.resolve())


@dataclass(frozen=True)
class Signature:
    """How a component is made.

    Attributes:
        options: what a configuration may say.
        takes_any: whether other options are taken, too.
        is_called: whether making it means calling it: a class, or a function that takes nothing by position. Any other
            function (a row loss takes logits, a transform a model) gets its options bound.
    """

    options: tuple[Parameter, ...]
    takes_any: bool
    is_called: bool

    @classmethod
    def of(cls, target: Callable[..., Any]) -> Signature:
        """Read it."""
        is_class = inspect.isclass(target)
        # A class without a constructor of its own shows the (*args, **kwargs) of nn.Module, which takes neither.
        if is_class and getattr(target.__init__, "__module__", "").startswith("torch."):
            return cls((), False, True)
        parameters = list(inspect.signature(target).parameters.values())
        by_caller = [] if is_class else [parameter for parameter in parameters if _comes_from_caller(parameter)]
        options = [
            Parameter(parameter.name, parameter.default)
            for parameter in parameters
            if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            and parameter not in by_caller
        ]
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        return cls(tuple(options), takes_any, is_called=is_class or not by_caller)


class Registry:
    """The components of one kind.

    Args:
        label: what they are, in the singular.
        find: called with a name that is not registered: may register it; gives other names that could be, and a
            sentence to add to the message where there is none of this name.
    """

    def __init__(self, label: str, *, find: Callable[[str], tuple[list[str], str]] = lambda name: ([], "")) -> None:
        self.label = label
        self._find = find
        self._components: dict[str, Component] = {}

    def __iter__(self) -> Iterator[Component]:
        return iter(sorted(self._components.values(), key=lambda component: component.name))

    def __contains__(self, name: str) -> bool:
        """Whether an active plugin has it."""
        return name in self._components

    def add(self, component: Component) -> None:
        """Register a component.

        Raises:
            ValueError: the name is not in snake_case or taken, or the target is neither callable nor
                ``"module:attribute"``.
        """
        name, target = component.name, component.target
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ValueError(f"{component.package} registers the {self.label} {name!r}; expected a name in snake_case.")
        if not (callable(target) or (isinstance(target, str) and re.fullmatch(r"[\w.]+:\w+", target))):
            raise ValueError(
                f"{component.package} registers the {self.label} {name!r} as {target!r}; "
                'expected a callable or "module:attribute".'
            )
        if name in self._components:
            other = self._components[name].package
            raise ValueError(
                f"{self.label} {name!r} is registered by both {other} and {component.package}; block one of them."
            )
        self._components[name] = replace(component, label=self.label)

    def get(self, name: str) -> Component:
        """The component called `name`, of an active plugin or of the installed one that has it, then active.

        Raises:
            ValueError: there is none, or several plugins have it; lists those there are.
            PluginError: the plugin that has it does not work.
        """
        if name in self._components:
            return self._components[name]
        others, hint = self._find(name)
        if name in self._components:
            return self._components[name]
        known = sorted({*self._components, *others})
        listed = ", ".join(known) or "none"
        message = f"there is no {self.label} {name!r}{did_you_mean(name, known)}. Registered: {listed}."
        raise ValueError(" ".join(filter(None, [message, hint])))

    def create(self, name: str, options: Mapping[str, Any] | None = None) -> Any:
        """Make the component called `name` with its options.

        A class is instantiated. A function that takes something by position (a row loss takes logits, a transform a
        model) gets its options bound; a function that does not is a factory and is called.

        Raises:
            ValueError: there is no such component, or it has no such option, or it lacks one.
            PluginError: it cannot be imported.
        """
        component = self.get(name)
        options = dict(options or {})
        target = component.resolve()
        self._check(component, options)
        if component.signature.is_called:
            with ErrorContext(str(component)):
                return target(**options)
        return functools.partial(target, **options) if options else target

    def _check(self, component: Component, options: Mapping[str, Any]) -> None:
        signature = component.signature
        known = [parameter.name for parameter in signature.options]
        choices = f"Its options: {', '.join(known) or 'none'}."
        for name in options:
            if name not in known and not signature.takes_any:
                raise ValueError(f"{component} has no option {name!r}{did_you_mean(name, known)}. {choices}")
        missing = [option.name for option in signature.options if option.required and option.name not in options]
        if missing:
            raise ValueError(f"{component} needs the option {', '.join(map(repr, missing))}. {choices}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint at the nearest known name, ready to be put behind a wrong one; empty where nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _comes_from_caller(parameter: inspect.Parameter) -> bool:
    """Whether a function's parameter is filled by position when the function is called, so is not an option."""
    by_position = (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    return parameter.kind in by_position and parameter.default is parameter.empty
