"""An app named on the command line: MODULE:APP, imported, for what only its plugins know."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from aether_bg import Aether
from aether_bg.errors import AetherError, InvalidOption, shown
from aether_bg.hookspecs import LAYERS

F = TypeVar("F", bound=Callable[..., Any])

_EXAMPLE: Final = "For example: myservice.jobs:app."


def app_option(command: F) -> F:
    """`--app`: passed on as an Aether or None."""

    def loaded(_: click.Context, __: click.Parameter, text: str | None) -> Aether | None:
        return None if text is None else load_app(text)

    told = "Its plugins know schedules or payloads that this command meets."
    return click.option("--app", metavar="MODULE:APP", callback=loaded, help=told)(command)


def policies(app: Aether) -> list[Any]:
    """The plugins of an app that own no layer: schedule words, codecs, stamps and the like."""
    owners = [plugin for layer in LAYERS for plugin in app.plugins.owners(layer)]
    return [plugin for plugin in app.plugins.all if not any(plugin is owner for owner in owners)]


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
            near = [name for name, value in getattr(found, "__dict__", {}).items() if isinstance(value, Aether)]
            remedy = f"Did you mean {module}:{near[0]}?" if near else _EXAMPLE
            raise InvalidOption(what, f"{module} has no {path!r}", remedy) from None
    if not isinstance(found, Aether):
        raise InvalidOption(what, f"it is a {type(found).__name__}, not an Aether", _EXAMPLE)
    return found
