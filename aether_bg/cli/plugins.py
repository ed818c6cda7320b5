"""`plugins`: what an app is made of, hook by hook."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import re
import sys
import traceback

import attrs
import click

from aether_bg import Aether, hookspecs
from aether_bg.cli.output import json_option, print_document, table
from aether_bg.errors import AetherError, InvalidOption, shown

_EXAMPLE = "For example: myservice.jobs:app."


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
    hooks = [_hook(found, name) for name in vars(hookspecs) if hasattr(vars(hookspecs)[name], "aether_bg_spec")]
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


def load_app(text: str) -> Aether:
    """Import it. Raises `InvalidOption` for a text that leads nowhere, and what the app itself raises."""
    what = f"app {shown(text)}"
    module, separator, path = text.partition(":")
    if not module or not separator or not path:
        raise InvalidOption(what, "is not MODULE:APP", _EXAMPLE)
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what the module prints is not our output
            found = importlib.import_module(module)
    except AetherError:
        raise
    except ModuleNotFoundError as error:
        raise InvalidOption(what, f"there is no module {error.name!r}", "Run it in the folder of your code.") from None
    except (Exception, SystemExit) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
        raise InvalidOption(what, f"importing {module} raised {said}", "Mend the module.") from error
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            near = [name for name, value in vars(found).items() if isinstance(value, Aether)]
            remedy = f"Did you mean {module}:{near[0]}?" if near else _EXAMPLE
            raise InvalidOption(what, f"{module} has no {path!r}", remedy) from None
    if not isinstance(found, Aether):
        raise InvalidOption(what, f"it is a {type(found).__name__}, not an Aether", _EXAMPLE)
    return found


def _hook(app: Aether, name: str) -> Hook:
    doc = inspect.getdoc(getattr(hookspecs, name)) or ""
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
