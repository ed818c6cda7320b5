"""What the commands open: a store to read or to act on, and the app given by --app."""

from __future__ import annotations

import contextlib
import getpass
import importlib
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

import anyio
import anyio.from_thread
import click

from aether_bg._hooks.stores import store_of
from aether_bg._rules import validation as checks
from aether_bg.errors import AetherError, InvalidOption, JobNotFound, Unsupported, shown
from aether_bg.hookspecs import LAYERS
from aether_bg.model import JobInfo, Query
from aether_bg.protocols import Inspection

if TYPE_CHECKING:
    from aether_bg import Aether
    from aether_bg._app.operator import Operator

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")

_LACKS: Final = {
    "check": "this store has no check", "inspect": "this store can only be read by an app",
    "migrate": "this store has no migrations to apply by hand: an app applies them when it starts",
}  # fmt: skip
_EXAMPLE: Final = "For example: myservice.jobs:app."


def database_argument(command: F) -> F:
    return click.argument("database", metavar="DB", type=click.Path())(command)


def job_argument(command: F) -> F:
    return click.argument("job", metavar="JOB")(command)


def tell(database: str) -> str:
    """A store as messages may name it: the file, or a URL without its password."""
    scheme, separator, _ = database.partition("://")
    return f"{scheme}://…" if separator else f"database {database}"


def ask(database: str, method: str, question: Callable[[Any], Awaitable[R]]) -> R:
    """Calls the method of that name of the store at `database`, on an event loop of its own: Ctrl-C ends it at once.

    Raises `Unsupported` if the store has no such method.
    """
    store = store_of(database)
    if (asked := getattr(store, method, None)) is None:
        raise Unsupported(shown(store), _LACKS[method], "Use the tools of its database.")
    with anyio.from_thread.start_blocking_portal() as portal:
        return portal.call(question, asked)


def read(database: str, question: Callable[[Inspection], Awaitable[R]]) -> R:
    """Open the store for reading only, and ask."""

    async def inside(inspect: Callable[[], contextlib.AbstractAsyncContextManager[Inspection]]) -> R:
        async with inspect() as inspection:
            return await question(inspection)

    return ask(database, "inspect", inside)


async def find_job(find: Callable[[Query], Awaitable[Sequence[JobInfo]]], text: str) -> JobInfo:
    """By id, or else by name, or else by what is stored as its id. Raises `JobNotFound`."""
    from aether_bg.plugins.sqlite.rows import stand_ins

    checks.text("job", text)
    queries = [Query(job_name=text, limit=1), Query(ids=stand_ins(text))]
    with contextlib.suppress(ValueError):
        queries.insert(0, Query(ids=(UUID(text),)))
    for query in queries:
        for job in await find(query):
            return job
    raise JobNotFound(f"job {shown(text)}", "there is no job with that id or name", "`aether-bg list` shows the jobs.")


def operate(database: str, act: Callable[[Operator], Awaitable[R]], plugins: Sequence[Any] = ()) -> R:
    """Opens the store, acts through the guarded writes of an app's own verbs, and closes it. Call `read` on it first.

    The rows say who acted. The processes that run jobs notice within a moment.
    """
    from aether_bg import Aether  # with the kernel: commands that only read do without
    from aether_bg._app.operator import operating

    read(database, lambda store: store.writable())
    app = Aether(database, scheduler="timer", plugins=plugins, actor=actor())

    async def session() -> R:
        async with operating(app) as operator:
            return await act(operator)

    with contextlib.redirect_stdout(sys.stderr):  # what plugins print is not our output
        return anyio.run(session)


def actor() -> str:
    try:
        return f"aether-bg ({getpass.getuser()})"
    except (OSError, KeyError, ImportError):  # a user id without a name
        return "aether-bg"


# -- apps ----------------------------------------------------------------------------------------


def app_option(command: F) -> F:
    """`--app`: passed on as an Aether or None."""

    def loaded(_: click.Context, __: click.Parameter, text: str | None) -> Aether | None:
        return None if text is None else load_app(text)

    purpose = "Its plugins know schedules or payloads that this command meets."
    return click.option("--app", metavar="MODULE:APP", callback=loaded, help=purpose)(command)


def policies(app: Aether | None) -> list[Any]:
    """The plugins of an app that own no layer: schedule words, codecs, stamps and the like."""
    if app is None:
        return []
    owners = [plugin for layer in LAYERS for plugin in app.plugins.owners(layer)]
    return [plugin for plugin in app.plugins.all if not any(plugin is owner for owner in owners)]


def load_app(text: str) -> Aether:
    """Imports it. Raises `InvalidOption` if `text` names no app, and what the app itself raises."""
    from aether_bg import Aether

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
        raise InvalidOption(what, f"importing {module} raised {said}", "Fix the error in that module.") from error
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
