"""Finding plugins, importing one, and asking it what it offers; nothing here makes one active."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from .. import hookspecs
from .registry import Component, PluginError, did_you_mean

ENTRY_POINTS = "hf_distill"

DEFAULT_KINDS = {
    "losses": "loss",
    "teachers": "signal",
    "selectors": "selector",
    "generators": "batch",
    "students": "builder",
    "metrics": "metric",
    "commands": "command",
}
"""The kind that a component has where its registration names none, by what follows ``register_``."""


@dataclass(frozen=True, order=True)
class PluginInfo:
    """A plugin: its name in configurations, the package that it came in (empty for a local one) and its version."""

    name: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} ({' '.join(filter(None, [self.distribution, self.version]))})"


@dataclass(frozen=True)
class Offer:
    """A plugin that was imported, and what it offers.

    Attributes:
        info: its name, package and version.
        plugin: the module or object itself.
        components: what it registers.
        kinds: kinds of components that it brings: (family, kind) and what such a component is called.
    """

    info: PluginInfo
    plugin: object
    components: list[Component] = field(default_factory=list)
    kinds: dict[tuple[str, str], str] = field(default_factory=dict)


def installed_plugins() -> list[tuple[PluginInfo, EntryPoint]]:
    """All installed plugins, sorted by name, without importing any."""
    found = []
    for entry_point in entry_points(group=ENTRY_POINTS):
        assert entry_point.dist is not None, "importlib.metadata gives every entry point of a group its package"
        found.append((PluginInfo(entry_point.name, entry_point.dist.name, entry_point.dist.version), entry_point))
    return sorted(found)


def load_installed(info: PluginInfo, entry_point: EntryPoint) -> Offer:
    """Import an installed plugin and ask what it offers.

    Raises:
        PluginError: it cannot be imported, or a hook of its is wrong.
    """
    try:
        plugin = entry_point.load()
    except Exception as error:
        raise PluginError(str(info), f"cannot be imported: {type(error).__name__}: {error}") from error
    return ask(plugin, info)


def load_named(name: str, installed: Iterable[tuple[PluginInfo, EntryPoint]]) -> Offer:
    """Import the plugin called `name`: an installed one, a local file, or a module, in this order.

    Raises:
        ValueError: there is none.
        PluginError: it does not work, or several packages offer it.
    """
    installed = list(installed)
    found = [(info, entry_point) for info, entry_point in installed if info.name == name]
    if len(found) > 1:
        packages = ", ".join(str(info) for info, _ in found)
        raise PluginError(name, f"is offered by several packages; uninstall all but one of {packages}.")
    if found:
        return load_installed(*found[0])
    try:
        plugin = _load_file(name) if name.endswith(".py") else importlib.import_module(name)
    except Exception as error:
        if _is_absent(name, error):
            names = [info for info, _ in installed]
            hint = did_you_mean(name, [info.name for info in names])
            raise ValueError(
                f"there is no plugin {name!r}{hint}. Installed: {', '.join(map(str, names)) or 'none'}. "
                "A local one is named by the path of its .py file."
            ) from None
        raise PluginError(name, f"cannot be imported: {type(error).__name__}: {error}") from error
    return ask(plugin, local_info(name, plugin))


def ask(plugin: object, info: PluginInfo) -> Offer:
    """What a plugin offers: the registrations of its hooks, noted down.

    Raises:
        PluginError: it implements no hook, or one that is wrong.
    """
    # An entry point may name a class; pluggy would call its methods without a self (pluggy#643).
    manager = pluggy.PluginManager("hf_distill")
    manager.add_hookspecs(hookspecs)
    try:
        plugin = plugin() if isinstance(plugin, type) else plugin
        manager.register(plugin, name=info.name)
        manager.check_pending()
    except Exception as error:
        cause = " ".join(str(error).split())  # pluggy's messages have several lines
        raise PluginError(str(info), f"cannot be registered: {type(error).__name__}: {cause}") from error
    offer = Offer(info, plugin)
    callers = manager.get_hookcallers(plugin)
    if not callers:
        raise PluginError(str(info), "implements no hook; mark its functions with @hf_distill.hookimpl.")
    for caller in callers:
        (implementation,) = caller.get_hookimpls()
        if implementation.wrapper or implementation.hookwrapper:
            raise PluginError(str(info), f"wraps {caller.name}; hooks here have no result that could be wrapped.")
        if caller.name.startswith("register_"):
            call_hook(caller.name, implementation, info, {"register": _recorder(caller.name, offer)})
    return offer


def _recorder(hook: str, offer: Offer) -> Callable[..., None]:
    """The function that a plugin gets to register what `hook` is about."""
    family = hook.removeprefix("register_")
    if family == "kinds":

        def register_kind(family: str, kind: str, label: str) -> None:
            if family not in DEFAULT_KINDS:
                raise ValueError(f"the kind {kind!r} is of {family!r}; expected one of {', '.join(DEFAULT_KINDS)}.")
            offer.kinds[family, kind] = label

        return register_kind

    def register(name: str, target: hookspecs.Target, *, kind: str = DEFAULT_KINDS[family], help: str = "") -> None:
        offer.components.append(Component(family, kind, name, target, str(offer.info), help))

    return register


def call_hook(hook: str, implementation: pluggy.HookImpl, info: PluginInfo, arguments: Mapping[str, Any]) -> None:
    """Call one plugin's implementation of a hook with those arguments that it takes.

    Raises:
        PluginError: it failed.
    """
    names = {*implementation.argnames, *implementation.kwargnames}
    try:
        implementation.function(**{name: value for name, value in arguments.items() if name in names})
    except Exception as error:
        raise PluginError(str(info), f"failed in {hook}: {type(error).__name__}: {error}") from error


def local_info(name: str, plugin: object) -> PluginInfo:
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
