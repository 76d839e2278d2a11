"""The active plugins of a run, and the registries of what they offer.

>>> plugins = Plugins(["experiments/my_loss.py"])
>>> loss = plugins.losses.create("tvd")  # of the installed plugin that has it, which this makes active
>>> plugins.versions()
{'experiments/my_loss.py': 'sha256:6b1f0a2c93de', 'hf_distill': '0.2.0', 'tvd': '0.1.0'}

Named is active: a plugin runs where it is named itself, or a component that it has; of what is installed besides,
nothing runs but the registration of names, when one is looked for. Whoever needs plugins owns a `Plugins`; there is
none in the module, since a manager cannot be pickled and every process can rebuild it from the names.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pluggy

from .. import hookspecs
from .._version import __version__
from . import builtins
from .discovery import (
    Offer,
    PluginInfo,
    ask,
    call_hook,
    installed_plugins,
    load_installed,
    load_named,
    local_info,
)
from .registry import Component, PluginError, Registry

if TYPE_CHECKING:
    from ..trainer import DistillationTrainer

logger = logging.getLogger(__name__)

CORE = "hf-distill"
_KINDS = {
    ("losses", "loss"): "loss",
    ("teachers", "signal"): "teacher",
    ("selectors", "selector"): "selector",
    ("generators", "batch"): "batch generator",
    ("students", "builder"): "student builder",
    ("students", "transform"): "student transform",
    ("metrics", "metric"): "metric",
    ("commands", "command"): "command",
}


class Plugins:
    """The active plugins and the components that they have.

    Args:
        names: plugins to activate whatever is named later: names of installed ones, paths of local ``.py`` files,
            importable modules, or plugin objects themselves; in order of name, whatever the order given. A name with a
            minus before it (``-name``) is blocked.
        block: names that stay inactive, whatever names them or a component of theirs.

    Attributes:
        active: what is active, by name; the core itself is first.
        losses, teachers, selectors, generators, students, transforms, metrics, commands: the registries of the core's
            own kinds. Others are had by `registry`.

    Raises:
        ValueError: a name is not known.
        PluginError: a plugin that was named does not work.
    """

    def __init__(self, names: Iterable[str | object] = (), *, block: Iterable[str] = ()) -> None:
        self.active: dict[str, PluginInfo] = {}
        self._installed = installed_plugins()
        self._manager = pluggy.PluginManager("hf_distill")
        self._manager.add_hookspecs(hookspecs)
        self._registries: dict[tuple[str, str], Registry] = {}
        for (family, kind), label in _KINDS.items():
            self._add_kind(family, kind, label)
        self.losses = self.registry("losses", "loss")
        self.teachers = self.registry("teachers", "signal")
        self.selectors = self.registry("selectors", "selector")
        self.generators = self.registry("generators", "batch")
        self.students = self.registry("students", "builder")
        self.transforms = self.registry("students", "transform")
        self.metrics = self.registry("metrics", "metric")
        self.commands = self.registry("commands", "command")

        names = list(names)
        minus = [name[1:] for name in names if isinstance(name, str) and name.startswith("-")]
        named = _by_name(name for name in names if not (isinstance(name, str) and name.startswith("-")))
        self._blocked = {*block, *minus}
        if unknown := self._blocked - named.keys() - {info.name for info in self.installed()}:
            raise ValueError(f"cannot block {', '.join(sorted(unknown))}: neither installed nor named.")
        self._activate(ask(builtins, PluginInfo("hf_distill", CORE, __version__)))
        for name in sorted(named.keys() - self._blocked):
            plugin = named[name]
            if name not in self.active:  # another one may have needed a kind of its
                is_name = isinstance(plugin, str)
                self._activate(load_named(name, self._installed) if is_name else ask(plugin, local_info(name, plugin)))

    @classmethod
    def of(cls, plugins: Plugins | Iterable[str | object] | None) -> Plugins:
        """Plugins themselves, or those that are named."""
        return plugins if isinstance(plugins, Plugins) else cls(plugins or ())

    # ---- What there is ----

    def registry(self, family: str, kind: str) -> Registry:
        """The registry of a kind of component: ``registry("teachers", "text")``; activates the plugin that brings it.

        Raises:
            ValueError: there is no such kind.
        """
        if (family, kind) not in self._registries:
            bringing = [offer for offer in self._offers() if (family, kind) in offer.kinds]
            if not bringing:
                every = [*self._registries, *(key for offer in self._offers() for key in offer.kinds)]
                known = sorted({other for name, other in every if name == family})
                raise ValueError(f"there is no kind {kind!r} of {family}; expected {' or '.join(map(repr, known))}.")
            self._activate(_only(bringing, f"the kind {kind!r} of {family}"))
        return self._registries[family, kind]

    def registries(self) -> list[Registry]:
        """All registries, in order of family and kind."""
        return [registry for _, registry in sorted(self._registries.items())]

    def installed(self) -> list[PluginInfo]:
        """All installed plugins, active or not, sorted by name."""
        return [info for info, _ in self._installed]

    def available(self) -> tuple[list[Component], dict[PluginInfo, PluginError]]:
        """Components of the active and of all installed plugins, and what is wrong with plugins that do not work."""
        components = [component for registry in self.registries() for component in registry]
        components += [component for offer in self._offers() for component in offer.components]
        return sorted(components, key=lambda one: (one.family, one.kind, one.name, one.package)), dict(self._broken)

    def versions(self) -> dict[str, str]:
        """The version of each active plugin by name, to be kept with what was trained."""
        return {info.name: info.version for info in sorted(self.active.values())}

    def fingerprint(self) -> str:
        """Active plugins with their versions and components, a line each: equal on two processes that agree."""
        lines = []
        for info in sorted(self.active.values()):
            components = [
                f"{registry.label} {component.name}"
                for registry in self.registries()
                for component in registry
                if component.package == str(info)
            ]
            lines.append(f"{info}: {', '.join(components)}")
        return "\n".join(lines)

    # ---- Events ----

    def training_started(self, trainer: DistillationTrainer) -> None:
        """Tell every active plugin that `trainer` is about to take its first step."""
        self.notify("training_started", trainer=trainer)

    def training_finished(self, trainer: DistillationTrainer) -> None:
        """Tell every active plugin that the training of `trainer` ended by itself."""
        self.notify("training_finished", trainer=trainer)

    def notify(self, event: str, **arguments: Any) -> None:
        """Call the hook `event` of every active plugin that implements it, in order of name.

        Raises:
            PluginError: a plugin failed; the later ones are not called.
        """
        implementations = getattr(self._manager.hook, event).get_hookimpls()
        for implementation in sorted(implementations, key=lambda implementation: implementation.plugin_name):
            call_hook(event, implementation, self.active[implementation.plugin_name], arguments)

    # ---- Activating ----

    def _activate(self, offer: Offer) -> None:
        """Make a plugin active, and its components known; before it, whoever brings a kind that it needs."""
        for family, kind in {(component.family, component.kind) for component in offer.components} - offer.kinds.keys():
            try:
                self.registry(family, kind)
            except ValueError as error:
                raise PluginError(str(offer.info), f"cannot be activated: {error}") from error
        for (family, kind), label in offer.kinds.items():
            self._add_kind(family, kind, label)
        self.active[offer.info.name] = offer.info
        self._manager.register(offer.plugin, name=offer.info.name)
        for component in offer.components:
            try:
                self._registries[component.family, component.kind].add(component)
            except ValueError as error:
                raise PluginError(str(offer.info), f"cannot be activated: {error}") from error

    def _add_kind(self, family: str, kind: str, label: str) -> None:
        if (family, kind) in self._registries:
            raise ValueError(f"the kind {kind!r} of {family} is there already.")
        self._registries[family, kind] = Registry(label, find=functools.partial(self._find, family, kind))

    def _find(self, family: str, kind: str, name: str) -> tuple[list[str], str]:
        """Activate the installed plugin that has this component; see `Registry`."""

        def matches(component: Component) -> bool:
            return (component.family, component.kind, component.name) == (family, kind, name)

        offers = self._offers()
        having = [offer for offer in offers if any(map(matches, offer.components))]
        if having:
            offer = _only(having, f"the {self._registries[family, kind].label} {name!r}")
            self._activate(offer)
            if family != "commands" and offer.info.distribution != CORE and os.environ.get("RANK", "0") == "0":
                label = self._registries[family, kind].label
                logger.warning("The %s %r is of the plugin %s, which is active now.", label, name, offer.info)
            return [], ""
        others = {
            component.name
            for offer in offers
            for component in offer.components
            if (component.family, component.kind) == (family, kind)
        }
        # What is no batch generator may be a round generator.
        elsewhere = [
            f"{name!r} is a {self._label(component)} of {component.package}."
            for component in self.available()[0]
            if (component.family, component.name) == (family, name)
        ]
        return sorted(others), " ".join([*elsewhere, *(f"{error}." for error in self._broken.values())])

    def _label(self, component: Component) -> str:
        """What such a component is called, whether its kind is active or not."""
        key = component.family, component.kind
        labels = {key: registry.label for key, registry in self._registries.items()}
        for offer in self._offers():
            labels |= offer.kinds
        return labels.get(key, component.kind)

    def _offers(self) -> list[Offer]:
        """What the installed plugins offer that are neither active nor blocked; a broken one is passed over."""
        left = [offer for offer in self._scanned if offer.info.name not in self.active]
        return [offer for offer in left if offer.info.name not in self._blocked]

    @functools.cached_property
    def _scanned(self) -> list[Offer]:
        offers = []
        for info, entry_point in self._installed:
            if info.name in self.active or info.name in self._blocked:
                continue
            try:
                offers.append(load_installed(info, entry_point))
            except PluginError as error:
                self._broken[info] = error
                _warn_once(str(error))
        return offers

    @functools.cached_property
    def _broken(self) -> dict[PluginInfo, PluginError]:
        return {}


def _by_name(plugins: Iterable[str | object]) -> dict[str, str | object]:
    named: dict[str, str | object] = {}
    for plugin in plugins:
        name = plugin if isinstance(plugin, str) else str(getattr(plugin, "__name__", type(plugin).__name__))
        if named.setdefault(name, plugin) != plugin:
            raise ValueError(f"two different plugins are called {name!r}; give one another __name__.")
    return named


def _only(offers: list[Offer], what: str) -> Offer:
    if len(offers) > 1:
        found = " and ".join(str(offer.info) for offer in offers)
        raise ValueError(
            f"{what} is of several installed plugins, {found}. Say which one in `plugins`, or block one there: "
            f"plugins: [-{offers[-1].info.name}]."
        )
    return offers[0]


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning("%s It is passed over, since nothing names it.", message)
