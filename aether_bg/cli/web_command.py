"""`web`: the page on this machine, for the person who has the terminal."""

from __future__ import annotations

import contextlib
import socket
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import anyio
import click

from aether_bg._hooks.stores import store_of
from aether_bg.cli.stores import actor, app_option, database_argument, policies, read
from aether_bg.errors import InvalidOption, Unsupported
from aether_bg.explain import plain

if TYPE_CHECKING:
    from aether_bg import Aether

_NEEDS: Final = ("starlette", "jinja2", "uvicorn")


@click.command()
@database_argument
@click.option("--port", "-p", type=click.IntRange(0, 65535), default=0, help="Any free one if it is not given.")
@click.option("--read-only", is_flag=True, help="Look, and change nothing.")
@click.option("--payloads", type=click.Choice(["hidden", "keys", "shown"]), default="keys", show_default=True)
@app_option
def web(database: str, port: int, read_only: bool, payloads: Any, app: Aether | None) -> None:
    """Look at jobs in a browser, and act on them.

    Serves on 127.0.0.1 until Ctrl-C, and prints a link. Its token lets one browser in, once; then a new link is
    printed. The rows say who acted. Needs the extra: pip install 'aether-bg[web]'.

    \b
    aether-bg web jobs.db
    aether-bg web jobs.db --read-only --port 8000
    """
    if missing := [name for name in _NEEDS if find_spec(name) is None]:
        raise Unsupported(
            "aether-bg web", f"it needs {', '.join(missing)}, which is not installed here",
            "Install it: pip install 'aether-bg[web]'.",
        )  # fmt: skip
    with contextlib.suppress(KeyboardInterrupt):
        anyio.run(_served, database, port, read_only, payloads, app)


async def _served(database: str, port: int, read_only: bool, payloads: Any, app: Aether | None) -> None:
    listening = _listening(port)
    with listening:
        if read_only:
            store = store_of(database)
            async with store.inspect():  # says at once what is wrong with it
                pass
            await _serve(listening, store, True, payloads)
        else:
            if callable(getattr(store_of(database), "inspect", None)):
                await anyio.to_thread.run_sync(read, database, lambda store: store.writable())
            from aether_bg import Aether
            from aether_bg._app.operator import operating

            opened = Aether(database, scheduler="timer", plugins=policies(app), actor=actor())
            async with operating(opened) as operator:
                await _serve(listening, operator, False, payloads)


async def _serve(listening: socket.socket, jobs: Any, read_only: bool, payloads: Any) -> None:
    import uvicorn

    from aether_bg.ext.web import dashboard
    from aether_bg.ext.web._token import OneLink

    def used() -> None:
        click.echo(plain(f"A browser was let in. For another one: {allow.link()}"))

    allow = OneLink(listening.getsockname()[1], actor(), used)
    page = dashboard(jobs, allow=allow, read_only=read_only, payloads=payloads)
    config = uvicorn.Config(page, log_level="warning", access_log=False, lifespan="off", server_header=False)
    click.echo(plain(f"Open {allow.link()}"))
    click.echo("Ctrl-C ends it.")
    await uvicorn.Server(config).serve([listening])


def _listening(port: int) -> socket.socket:
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(("127.0.0.1", port))
        found.listen()  # before the link is printed: a browser may be quick
    except OSError as error:
        found.close()
        raise InvalidOption(f"--port {port}", f"cannot be used: {error.strerror}", "Leave it out.") from error
    return found
