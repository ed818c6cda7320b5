"""The hooks of an app and the plugins that implement each, for people."""

from __future__ import annotations

import inspect
import re

import attrs

from aether_bg._hooks.plugins import Plugins
from aether_bg.hookspecs import SPECS


@attrs.frozen(kw_only=True)
class Hook:
    """Who implements it, in order: asked first, merged first, outermost first."""

    hook: str
    layer: str
    shape: str
    plugins: list[str]


def hooks_of(plugins: Plugins) -> list[Hook]:
    return [_hook(plugins, name) for name in SPECS]


def _hook(plugins: Plugins, name: str) -> Hook:
    doc = inspect.getdoc(SPECS[name]) or ""
    said = re.search(r"Shape: (\w+)", doc)
    shape = said[1] if said else "?"
    order = [implementation.plugin for implementation in getattr(plugins.pm.hook, name).get_hookimpls()]
    if shape == "policy":
        order.reverse()  # pluggy asks the last one first
    elif name == "lifecycle_start":
        order = [plugin for plugin in plugins.in_layer_order() if any(plugin is one for one in order)]
    prefixes = {"store": "persistence", "schedule": "scheduling"}
    layer = name.partition("_")[0]
    return Hook(hook=name, layer=prefixes.get(layer, layer), shape=shape, plugins=[full_name(one) for one in order])


def full_name(plugin: object) -> str:
    """With its module."""
    if inspect.ismodule(plugin):
        return plugin.__name__
    kind = type(plugin)
    return f"{kind.__module__}.{kind.__qualname__}"
