"""Registration: every plugin is checked against the hook specifications before the first hook is called."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final
from weakref import WeakKeyDictionary

from aether_bg._rules.validation import nearest
from aether_bg.errors import (
    DuplicatePlugin,
    HookShape,
    IncompleteLayer,
    LayerConflict,
    NotAPlugin,
    UnknownHook,
    shown,
)
from aether_bg.hookspecs import LAYERS, PROJECT, SPECS, parameters_of, plugin_manager

_IMPL: Final = f"{PROJECT}_impl"
OWNED: Final = frozenset({name for names in LAYERS.values() for name in names} | {"schedule_arm"})

DEFAULTS: Final = {
    "store": ("aether_bg.plugins.sqlite", "SQLiteStore"),
    "timer": ("aether_bg.plugins.timer", "Timer"),
    "dapr": ("aether_bg.plugins.dapr", "DaprScheduler"),
    "dispatch": ("aether_bg.plugins.inprocess", "InProcess"),
}
"""The kernel knows the plugins that ship with it by name only."""


def default(which: str) -> Callable[..., Any]:
    module, name = DEFAULTS[which]
    made: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return made


def is_plugin(thing: object) -> bool:
    return any(True for _ in implementations(thing))


def implementations(plugin: object) -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """(attribute, bound function, options) of everything marked `@hookimpl`."""
    for attribute in dir(plugin if inspect.ismodule(plugin) else type(plugin)):
        if attribute.startswith("__"):
            continue
        options = getattr(inspect.getattr_static(plugin, attribute, None), _IMPL, None)
        if options is None:
            options = getattr(getattr(type(plugin), attribute, None), _IMPL, None)
        if isinstance(options, dict):
            yield attribute, getattr(plugin, attribute), options


def name_of(plugin: object) -> str:
    if inspect.ismodule(plugin) or inspect.isclass(plugin):
        return plugin.__name__
    kind = type(plugin)
    return kind.__qualname__ if kind.__module__ == "__main__" else f"{kind.__module__}.{kind.__qualname__}"


class Plugins:
    """The plugins of one app, in order of registration."""

    def __init__(self) -> None:
        self.pm = plugin_manager()
        self.all: list[Any] = []
        self._hooks: dict[int, dict[str, Callable[..., Any]]] = {}
        """By id of the plugin. Collecting them takes a while, and each layer and each start asks."""

    def register(self, plugin: Any) -> None:
        """Raises a `PluginError` that names plugin, hook and remedy."""
        name = name_of(plugin)
        if inspect.isclass(plugin):
            raise NotAPlugin(f"plugin {name}", "it is a class, not an object", f"Pass {plugin.__name__}(…).")
        for known in self.all:
            if known is plugin or known == plugin:
                how = "twice" if known is plugin else "twice: it equals another one (attrs plugins need eq=False)"
                raise DuplicatePlugin(f"plugin {name}", f"it was given {how}", "Pass it once.")
        found = list(implementations(plugin))
        if not found:
            raise NotAPlugin(
                f"plugin {shown(plugin)}", "no method of it is marked @hookimpl",
                "from aether_bg import hookimpl, and mark the hooks it implements.",
            )  # fmt: skip
        hooks = self._hooks[id(plugin)] = {}
        for attribute, function, options in found:
            _check(name, attribute, function, options)
            hooks[options.get("specname") or attribute] = function
        self.pm.add(plugin, {attribute: options for attribute, _, options in found})
        self.all.append(plugin)

    def hook(self, plugin: Any, name: str) -> Callable[..., Any] | None:
        return self._hooks[id(plugin)].get(name)

    def owners(self, layer: str) -> list[Any]:
        """The plugins that implement a hook of a layer."""
        hooks = set(LAYERS[layer]) | ({"schedule_arm"} if layer == "scheduling" else set())
        return [plugin for plugin in self.all if hooks & self._hooks[id(plugin)].keys()]

    def check_layers(self) -> None:
        """Each layer has one owner that implements all of it. Raises `LayerConflict` or `IncompleteLayer`."""
        for layer, hooks in LAYERS.items():
            owners = self.owners(layer)
            if len(owners) > 1:
                names = " and ".join(name_of(owner) for owner in owners)
                raise LayerConflict(f"layer {layer}", f"{names} both own it", "Pass one of them.")
            for owner in owners:
                if missing := [hook for hook in hooks if hook not in self._hooks[id(owner)]]:
                    raise IncompleteLayer(
                        f"plugin {name_of(owner)}", f"it owns the {layer} layer but lacks {', '.join(missing)}",
                        "Implement all of its hooks: a layer has one owner.",
                    )  # fmt: skip
        for plugin in self.all:
            if "store_statements" in self._hooks[id(plugin)] and "store_transact" not in self._hooks[id(plugin)]:
                raise IncompleteLayer(
                    f"plugin {name_of(plugin)}", "it has store_statements but is no store",
                    "Implement that in the plugin that owns the persistence layer.",
                )  # fmt: skip
        self.pm.check_pending()

    def in_layer_order(self) -> list[Any]:
        """Owners of persistence first, then of scheduling, then the rest as registered."""
        first = [*self.owners("persistence"), *self.owners("scheduling")]
        return first + [plugin for plugin in self.all if all(plugin is not known for known in first)]


def entry_points() -> Iterable[Any]:
    """Plugins that installed distributions announce in the group `aether_bg`; classes and factories are called."""
    from importlib.metadata import entry_points as announced

    for point in announced(group=PROJECT):
        thing = point.load()
        yield thing() if inspect.isclass(thing) or (callable(thing) and not is_plugin(thing)) else thing


_fitting: Final = WeakKeyDictionary[Any, str]()
"""Methods that have been checked, and their hooks: most apps of a process have plugins of the same classes."""


def _check(plugin: str, attribute: str, function: Callable[..., Any], options: dict[str, Any]) -> None:
    hook = options.get("specname") or attribute
    method = getattr(function, "__func__", None)
    if inspect.isfunction(method):
        if _fitting.get(method) != hook:
            _check_shape(plugin, attribute, hook, function, options)
            _fitting[method] = hook
    else:
        _check_shape(plugin, attribute, hook, function, options)


def _check_shape(
    plugin: str, attribute: str, hook: str, function: Callable[..., Any], options: dict[str, Any]
) -> None:  # fmt: skip
    spec = SPECS.get(hook)
    if spec is None:
        near = nearest(hook, SPECS, cutoff=0.4)
        remedy = f"Did you mean {near!r}?" if near else "hookspecs.md lists the hooks."
        raise UnknownHook(f"{plugin}.{attribute}", f"there is no hook {hook!r}", remedy)
    if options.get("wrapper") or options.get("hookwrapper"):
        raise HookShape(
            f"{plugin}.{attribute}", "wrappers see a coroutine, not its result, so they are not used here",
            "To surround attempts implement dispatch_wrap.",
        )  # fmt: skip
    wants, has = inspect.iscoroutinefunction(spec), inspect.iscoroutinefunction(function)
    if wants != has:
        words = {True: "'async def'", False: "'def'"}
        raise HookShape(
            f"{plugin}.{attribute}", f"it is {words[has]} but hook {hook!r} is {words[wants]}",
            f"Write {'async def' if wants else 'def'} {attribute}(…).",
        )  # fmt: skip
    _check_parameters(plugin, attribute, hook, function)


def _check_parameters(plugin: str, attribute: str, hook: str, function: Callable[..., Any]) -> None:
    names = list(parameters_of(hook))
    parameters = list(inspect.signature(function).parameters.values())
    exact = f"def {attribute}({', '.join(['self', *names])})"
    for parameter in parameters:
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD or parameter.default is not parameter.empty:
            raise HookShape(
                f"{plugin}.{attribute}",
                f"parameter {parameter.name!r} has a default or is not a plain one, so its value would not be passed",
                f"Write {exact}.",
            )
        if parameter.name not in names:
            raise HookShape(
                f"{plugin}.{attribute}", f"hook {hook!r} has no parameter {parameter.name!r}", f"Write {exact}."
            )
    if hook in OWNED and [parameter.name for parameter in parameters] != names:
        raise HookShape(f"{plugin}.{attribute}", f"hook {hook!r} wants exactly {', '.join(names)}", f"Write {exact}.")
