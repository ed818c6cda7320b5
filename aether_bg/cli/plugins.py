"""`plugins`: what an app is made of, hook by hook."""

from __future__ import annotations

import inspect
import re

import attrs
import click

from aether_bg import Aether
from aether_bg.cli.apps import load_app
from aether_bg.cli.output import json_option, print_document, table
from aether_bg.hookspecs import SPECS


@attrs.frozen(kw_only=True)
class Hook:
    """`plugins`: who implements it, in the order in which they count: asked first, merged first, outermost first."""

    hook: str
    layer: str
    shape: str
    plugins: list[str]


@click.command()
@click.argument("app", metavar="MODULE:APP")
@json_option
def plugins(app: str, as_json: bool) -> None:
    """Show an app's hooks, who implements each, in order.

    MODULE is imported, from the current folder too; APP is the Aether in it. Of a policy hook the first plugin is
    asked first; of wraps it is outermost.

    \b
    aether-bg plugins myservice.jobs:app
    """
    found = load_app(app)
    hooks = [_hook(found, name) for name in SPECS]
    if as_json:
        print_document({
            "plugins": [_name(plugin) for plugin in found.plugins.all], "handlers": sorted(found.handlers),
            "hooks": hooks,
        })  # fmt: skip
    else:
        table(
            ["HOOK", "LAYER", "SHAPE", "PLUGINS"],
            ([hook.hook, hook.layer, hook.shape, " > ".join(hook.plugins) or "-"] for hook in hooks),
        )


def _hook(app: Aether, name: str) -> Hook:
    doc = inspect.getdoc(SPECS[name]) or ""
    said = re.search(r"Shape: (\w+)", doc)
    shape = said[1] if said else "?"
    order = [implementation.plugin for implementation in getattr(app.plugins.pm.hook, name).get_hookimpls()]
    if shape == "policy":
        order.reverse()  # pluggy asks the last one first
    elif name == "lifecycle_start":
        order = [plugin for plugin in app.plugins.in_layer_order() if any(plugin is one for one in order)]
    prefixes = {"store": "persistence", "schedule": "scheduling"}
    layer = name.partition("_")[0]
    return Hook(hook=name, layer=prefixes.get(layer, layer), shape=shape, plugins=[_name(plugin) for plugin in order])


def _name(plugin: object) -> str:
    if inspect.ismodule(plugin):
        return plugin.__name__
    kind = type(plugin)
    return f"{kind.__module__}.{kind.__qualname__}"
