"""Finding, activating and blocking plugins, and the registries of what they offer.

>>> plugins = Plugins(["tvd", "experiments/my_loss.py"])
>>> loss = plugins.losses.create("tvd")
>>> plugins.versions()
{'hf_distill': '0.1.0', 'experiments/my_loss.py': 'sha256:6b1f0a2c93de', 'tvd': '0.1.0'}

Installed is not active: only the plugins that are named are imported. Whoever needs plugins owns a `Plugins`; there is
none in the module, since a manager cannot be pickled and every process can rebuild it from the names.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from .. import hookspecs
from .._version import __version__
from . import builtins
from .registry import PluginError, Registry, did_you_mean

if TYPE_CHECKING:
    from ..trainer import DistillationTrainer

ENTRY_POINTS = "hf_distill"


@dataclass(frozen=True, order=True)
class PluginInfo:
    """A plugin: its name in configurations, the package that it came in (empty for a local one) and its version."""

    name: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} ({' '.join(filter(None, [self.distribution, self.version]))})"


def installed_plugins() -> list[tuple[PluginInfo, EntryPoint]]:
    """All installed plugins, sorted by name, without importing any."""
    found = []
    for entry_point in entry_points(group=ENTRY_POINTS):
        assert entry_point.dist is not None, "importlib.metadata gives every entry point of a group its package"
        found.append((PluginInfo(entry_point.name, entry_point.dist.name, entry_point.dist.version), entry_point))
    return sorted(found)


class Plugins:
    """The active plugins and the components that they registered.

    Args:
        names: the plugins to activate: names of installed ones, paths of local ``.py`` files, importable modules, or
            plugin objects themselves. They are activated in order of name, whatever the order given.
        block: names that stay inactive even where `names` has them.

    Attributes:
        active: what is active, by name; the core itself is first.
        losses, teachers, text_teachers, selectors, generators, students, transforms, metrics, commands: the registries.

    Raises:
        ValueError: a name is not known.
        PluginError: a plugin that was named does not work.
    """

    def __init__(self, names: Iterable[str | object] = (), *, block: Iterable[str] = ()) -> None:
        self.active: dict[str, PluginInfo] = {}
        self._installed = installed_plugins()
        self._manager = pluggy.PluginManager("hf_distill")
        self._manager.add_hookspecs(hookspecs)
        self.losses = Registry("loss", hint=self._inactive)
        self.teachers = Registry("teacher", hint=self._inactive)
        self.text_teachers = Registry("text teacher", hint=self._inactive)
        self.selectors = Registry("selector", hint=self._inactive)
        self.generators = Registry("generator", hint=self._inactive)
        self.students = Registry("student builder", hint=self._inactive)
        self.transforms = Registry("student transform", hint=self._inactive)
        self.metrics = Registry("metric", hint=self._inactive)
        self.commands = Registry("command", hint=self._inactive)

        self._activate(builtins, PluginInfo("hf_distill", "hf-distill", __version__))
        named: dict[str, object] = {}
        for plugin in names:
            name = plugin if isinstance(plugin, str) else _object_name(plugin)
            if named.setdefault(name, plugin) != plugin:
                raise ValueError(f"two different plugins are called {name!r}; give one another __name__.")
        blocked = set(block)
        if unknown := blocked - named.keys() - {info.name for info in self.installed()}:
            raise ValueError(f"cannot block {', '.join(sorted(unknown))}: neither installed nor named.")
        for name in sorted(named.keys() - blocked):
            plugin = named[name]
            self._activate(*(self._load(plugin) if isinstance(plugin, str) else (plugin, _local_info(name, plugin))))
        for registry in self.registries().values():
            registry.freeze()

    def registries(self) -> dict[str, Registry]:
        """The registries by the name of their attribute, for listings."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Registry)}

    def installed(self) -> list[PluginInfo]:
        """All installed plugins, active or not, sorted by name."""
        return [info for info, _ in self._installed]

    def versions(self) -> dict[str, str]:
        """The version of each active plugin by name, to be kept with what was trained."""
        return {info.name: info.version for info in self.active.values()}

    def fingerprint(self) -> str:
        """Active plugins with their versions and components, a line each: equal on two processes that agree."""
        lines = []
        for info in sorted(self.active.values()):
            components = [
                f"{component.kind} {component.name}"
                for registry in self.registries().values()
                for component in registry
                if component.package == str(info)
            ]
            lines.append(f"{info}: {', '.join(components)}")
        return "\n".join(lines)

    def training_started(self, trainer: DistillationTrainer) -> None:
        """Tell every plugin that `trainer` is about to take its first step."""
        self.notify("training_started", trainer=trainer)

    def training_finished(self, trainer: DistillationTrainer) -> None:
        """Tell every plugin that the training of `trainer` ended by itself."""
        self.notify("training_finished", trainer=trainer)

    def notify(self, event: str, **arguments: Any) -> None:
        """Call the hook `event` of every plugin that implements it, in order of name.

        Raises:
            PluginError: a plugin failed; the later ones are not called.
        """
        implementations = getattr(self._manager.hook, event).get_hookimpls()
        for implementation in sorted(implementations, key=lambda implementation: implementation.plugin_name):
            _call(event, implementation, self.active[implementation.plugin_name], arguments)

    def _activate(self, plugin: object, info: PluginInfo) -> None:
        """Register one plugin with pluggy and its components with the registries."""
        self.active[info.name] = info
        try:
            # An entry point may name a class; pluggy would call its methods without a self (pluggy#643).
            plugin = plugin() if isinstance(plugin, type) else plugin
            self._manager.register(plugin, name=info.name)
            self._manager.check_pending()
        except Exception as error:
            cause = " ".join(str(error).split())  # pluggy's messages have several lines
            raise PluginError(str(info), f"cannot be registered: {type(error).__name__}: {cause}") from error
        callers = self._manager.get_hookcallers(plugin)
        if not callers:
            raise PluginError(str(info), "implements no hook; mark its functions with @hf_distill.hookimpl.")
        for caller in callers:
            for implementation in caller.get_hookimpls():
                if implementation.plugin is not plugin:
                    continue
                if implementation.wrapper or implementation.hookwrapper:
                    raise PluginError(
                        str(info), f"wraps {caller.name}; hooks here have no result that could be wrapped."
                    )
                if caller.name.startswith("register_"):
                    _call(caller.name, implementation, info, {"register": self._register(caller.name, str(info))})

    def _register(self, hook: str, package: str) -> Callable[..., None]:
        """The function that a plugin gets to register what `hook` is about."""
        kinds = {
            "register_students": {"builder": self.students, "transform": self.transforms},
            "register_teachers": {"signal": self.teachers, "text": self.text_teachers},
        }.get(hook)
        if kinds is None:
            registry: Registry = getattr(self, hook.removeprefix("register_"))

            def register(name: str, target: hookspecs.Target, *, help: str = "") -> None:
                registry.add(name, target, package=package, help=help)

            return register

        def register_kind(name: str, target: hookspecs.Target, *, kind: str = next(iter(kinds))) -> None:
            if kind not in kinds:
                choices = " or ".join(f'"{one}"' for one in kinds)
                raise ValueError(f"kind of {name!r} is {kind!r}; expected {choices}.")
            kinds[kind].add(name, target, package=package)

        return register_kind

    def _load(self, name: str) -> tuple[object, PluginInfo]:
        """Import the plugin called `name`: an installed one, a local file, or a module, in this order."""
        offers = [(info, entry_point) for info, entry_point in self._installed if info.name == name]
        if len(offers) > 1:
            packages = ", ".join(str(info) for info, _ in offers)
            raise PluginError(name, f"is offered by several packages; uninstall all but one of {packages}.")
        try:
            if offers:
                return offers[0][1].load(), offers[0][0]
            plugin = _load_file(name) if name.endswith(".py") else importlib.import_module(name)
        except Exception as error:
            if not offers and _is_absent(name, error):
                hint = did_you_mean(name, [info.name for info in self.installed()])
                raise ValueError(
                    f"there is no plugin {name!r}{hint}. Installed: {', '.join(map(str, self.installed())) or 'none'}. "
                    "A local one is named by the path of its .py file."
                ) from None
            broken = str(offers[0][0]) if offers else name
            raise PluginError(broken, f"cannot be imported: {type(error).__name__}: {error}") from error
        return plugin, _local_info(name, plugin)

    def _inactive(self) -> str:
        """What to add to a message about an unknown component."""
        inactive = [info for info in self.installed() if info.name not in self.active]
        if not inactive:
            return ""
        return f"Installed but not active: {', '.join(map(str, inactive))}; add the one you mean to `plugins`."


def _call(hook: str, implementation: pluggy.HookImpl, info: PluginInfo, arguments: Mapping[str, Any]) -> None:
    """Call one plugin's implementation of a hook with those arguments that it takes."""
    names = {*implementation.argnames, *implementation.kwargnames}
    try:
        implementation.function(**{name: value for name, value in arguments.items() if name in names})
    except Exception as error:
        raise PluginError(str(info), f"failed in {hook}: {type(error).__name__}: {error}") from error


def _object_name(plugin: object) -> str:
    name: str = getattr(plugin, "__name__", type(plugin).__name__)
    return name


def _local_info(name: str, plugin: object) -> PluginInfo:
    """What is known of a plugin that was not installed: its version is the content of its file, where it has one."""
    file = getattr(plugin, "__file__", None)
    version = f"sha256:{hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]}" if file else "local"
    return PluginInfo(name, "", version)


def _load_file(name: str) -> ModuleType:
    """Import the Python file at the path `name`, once per process and content."""
    path = Path(name).resolve(strict=True)
    # Not the bare stem: test.py or random.py would hide a module of that name.
    module_name = f"{path.stem}_{hashlib.sha256(bytes(path) + path.read_bytes()).hexdigest()[:12]}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None  # there is one for every path that ends in .py
        # Before it runs, since dataclasses look their module up.
        module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
    return sys.modules[module_name]


def _is_absent(name: str, error: Exception) -> bool:
    """Whether `error` says that a local plugin does not exist, rather than that something it imports does not."""
    if isinstance(error, FileNotFoundError):
        return name.endswith(".py") and not Path(name).exists()
    return isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.")
