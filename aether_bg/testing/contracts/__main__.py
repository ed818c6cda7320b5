"""`python -m aether_bg.testing.contracts LAYER MODULE:FACTORY`: a contract from a shell.

Exit codes: 0 every rule holds, 1 something is broken, 2 the call is wrong.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import anyio
import click

from aether_bg.hookspecs import LAYERS
from aether_bg.testing.contracts import policy_contract, runner_contract, scheduler_contract, store_contract
from aether_bg.testing.contracts.opening import implements, implements_something, plugin_of
from aether_bg.testing.contracts.suite import BACKENDS, Contract

CONTRACTS: Final[dict[str, Callable[..., Contract[Any]]]] = {
    "store": store_contract,
    "scheduler": scheduler_contract,
    "runner": runner_contract,
    "policy": policy_contract,
}


NEEDED: Final[Mapping[str, Sequence[str]]] = {
    "store": LAYERS["persistence"],
    "scheduler": LAYERS["scheduling"],
    "runner": ("dispatch_runner",),
    "policy": (),
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("layer", type=click.Choice(list(CONTRACTS)))
@click.argument("factory", metavar="MODULE:FACTORY")
@click.option("--backend", type=click.Choice(BACKENDS), default=BACKENDS[0], show_default=True, help="The event loop.")
@click.option("--not-durable", is_flag=True, help="A store that forgets everything when it is closed.")
@click.option("--not-shared", is_flag=True, help="A store that only one can open at a time.")
@click.option("--words", multiple=True, metavar="TEXT", help="What a policy's schedule_parse reads; repeatable.")
@click.option("-k", "only", default="", help="Only rules with this in their name.")
def main(
    layer: str, factory: str, backend: str, not_durable: bool, not_shared: bool, words: tuple[str, ...], only: str
) -> None:
    """Check a plugin against the contract of its layer.

    FACTORY makes the plugin: called with an empty folder for a store, with nothing for the others. For example:

        python -m aether_bg.testing.contracts store my_tests:make_store
    """
    options: dict[str, Any] = {"backends": (backend,)}
    if not_durable or not_shared:
        if layer != "store":
            raise click.UsageError("--not-durable and --not-shared are for stores.")
        options |= {"durable": not not_durable, "shared": not (not_durable or not_shared)}
    if words:
        if layer != "policy":
            raise click.UsageError("--words are for policies.")
        options["words"] = words
    make = _found(factory)
    contract = CONTRACTS[layer](make, **options)
    names = [name for name in contract if only in name]
    if not names:
        raise click.UsageError(f"-k {only!r}: no rule has this in its name. Rules: {', '.join(contract)}.")
    anyio.run(_check, layer, factory, make, backend=backend)
    report = anyio.run(contract.run, *names, backend=backend)
    click.echo(str(report))
    sys.exit(0 if report.ok else 1)


def _found(factory: str) -> Any:
    module, _, name = factory.partition(":")
    if not (module and name):
        raise click.UsageError(f"{factory!r} is not MODULE:FACTORY. For example: my_tests:make_store.")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise click.UsageError(f"{factory!r} cannot be imported: {error}.") from error
    if not callable(found):
        raise click.UsageError(f"{factory!r} is a {type(found).__name__}; a function or class that makes it is needed.")
    return found


async def _check(layer: str, factory: str, make: Callable[..., Any]) -> None:
    """One plugin is made to see that it can be, and is of that layer: else every rule would say the same."""
    with tempfile.TemporaryDirectory(prefix="aether_bg-contract-", ignore_cleanup_errors=True) as folder:
        given = (Path(folder),) if layer == "store" else ()
        try:
            async with AsyncExitStack() as stack:
                plugin = await plugin_of(make(*given), stack)
        except Exception as error:
            called = "an empty folder" if given else "nothing"
            raise click.UsageError(f"{factory!r}, called with {called}: {type(error).__name__}: {error}") from error
    if not implements_something(plugin):
        raise click.UsageError(f"{factory!r} made {plugin!r}, of which no method is marked @hookimpl.")
    if missing := [hook for hook in NEEDED[layer] if not implements(plugin, hook)]:
        raise click.UsageError(f"{factory!r} made {plugin!r}, which is no {layer}: it lacks {', '.join(missing)}.")


if __name__ == "__main__":
    main(prog_name="python -m aether_bg.testing.contracts")
