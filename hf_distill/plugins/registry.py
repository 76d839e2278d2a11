"""Named components of one kind, imported when first used, their options checked against their signatures.

>>> losses = Registry("loss")
>>> losses.add("jsd", "hf_distill.losses.divergences:jsd", package="hf-distill 0.1.0")
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
from dataclasses import dataclass
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
        kind: what it is, "loss" for instance.
        name: what it is called in configurations.
        target: the component, or ``"module:attribute"``.
        package: the plugin that registered it, for messages.
        help: one line on what it does, where it was given at registration.
    """

    kind: str
    name: str
    target: Target
    package: str
    help: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} of {self.package}"

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
            problem = f"registers the {self.kind} {self.name!r} as {self.target!r}, which cannot be imported"
            raise PluginError(self.package, f"{problem}: {type(error).__name__}: {error}") from error
        return found

    def summary(self) -> str:
        """What it does, in one line; imports it where no line was given at registration."""
        return self.help or (inspect.getdoc(self.resolve()) or "").partition("\n")[0]

    def parameters(self) -> tuple[list[Parameter], bool]:
        """Its options, and whether it takes any others besides."""
        target = self.resolve()
        is_class = inspect.isclass(target)
        # A class without a constructor of its own shows the (*args, **kwargs) of nn.Module, which takes neither.
        if is_class and getattr(target.__init__, "__module__", "").startswith("torch."):
            return [], False
        parameters = list(inspect.signature(target).parameters.values())
        options = [
            Parameter(parameter.name, parameter.default)
            for parameter in parameters
            if parameter.kind is parameter.KEYWORD_ONLY
            or (parameter.kind is parameter.POSITIONAL_OR_KEYWORD and (is_class or not _comes_from_caller(parameter)))
        ]
        return options, any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


class Registry:
    """The components of one kind.

    Args:
        kind: what they are, in the singular.
        hint: gives a sentence to add where a name is unknown.
    """

    def __init__(self, kind: str, *, hint: Callable[[], str] = lambda: "") -> None:
        self.kind = kind
        self._hint = hint
        self._components: dict[str, Component] = {}
        self._frozen = False

    def __iter__(self) -> Iterator[Component]:
        return iter(sorted(self._components.values(), key=lambda component: component.name))

    def __contains__(self, name: str) -> bool:
        return name in self._components

    def add(self, name: str, target: Target, *, package: str, help: str = "") -> None:
        """Register `target` as `name`.

        Raises:
            ValueError: the name is not in snake_case or taken, or the target is neither callable nor
                ``"module:attribute"``.
        """
        assert not self._frozen, f"{self.kind} {name!r} comes after the plugins were loaded; register it from a hook."
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ValueError(f"{package} registers the {self.kind} {name!r}; expected a name in snake_case.")
        if not (callable(target) or (isinstance(target, str) and re.fullmatch(r"[\w.]+:\w+", target))):
            raise ValueError(
                f"{package} registers the {self.kind} {name!r} as {target!r}; "
                'expected a callable or "module:attribute".'
            )
        if name in self._components:
            other = self._components[name].package
            raise ValueError(f"{self.kind} {name!r} is registered by both {other} and {package}; block one of them.")
        self._components[name] = Component(self.kind, name, target, package, help)

    def freeze(self) -> None:
        """Take no more components: every process has the same ones from here on."""
        self._frozen = True

    def get(self, name: str) -> Component:
        """The component called `name`.

        Raises:
            ValueError: there is none; lists those there are.
        """
        if name in self._components:
            return self._components[name]
        known = sorted(self._components)
        message = (
            f"there is no {self.kind} {name!r}{did_you_mean(name, known)}. Registered: {', '.join(known) or 'none'}."
        )
        raise ValueError(" ".join(filter(None, [message, self._hint()])))

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
        is_factory = not any(map(_comes_from_caller, inspect.signature(target).parameters.values()))
        if inspect.isclass(target) or is_factory:
            with ErrorContext(str(component)):
                return target(**options)
        return functools.partial(target, **options) if options else target

    def _check(self, component: Component, options: Mapping[str, Any]) -> None:
        parameters, takes_any = component.parameters()
        known = [parameter.name for parameter in parameters]
        choices = f"Its options: {', '.join(known) or 'none'}."
        for name in options:
            if name not in known and not takes_any:
                raise ValueError(f"{component} has no option {name!r}{did_you_mean(name, known)}. {choices}")
        missing = [parameter.name for parameter in parameters if parameter.required and parameter.name not in options]
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
