"""Contracts: what the kernel expects of a plugin, as tests that authors run against their own.

In a test file of pytest, all of it at once:

    from aether_bg.testing.contracts import store_contract

    globals().update(store_contract(lambda place: MyStore(place / "jobs")))

That makes one test function for each rule, run on asyncio and, where it is installed, on trio; each has a folder of its
own. Several plugins in one file have names: `store_contract(…, name="memory")`.
Without pytest, on whatever event loop is running:

    report = await store_contract(make_store).run()
    print(report)          # what is broken and why, what was left out, how many rules hold
    assert report.ok

A factory makes a new object at each call: the plugin, or a context manager (async or not) that yields it and cleans up
after it. A store's factory is given a place, an empty folder: for one place it always makes a store of the same jobs
(a server's store may take `place.name` as the name of a schema). A store that cannot, says so: `durable=False` (another
object knows nothing of what the first has stored), `shared=False` (not two at a time at one place). Rules about that
are then left out, and said to be.

The message of a broken rule has its number in docs/protocol.md or its hook, what must hold, why, and what was seen:

    C1: a claim hands out each job once, because two holders of one job run its effects twice. Seen: …

`suite` rules and reports · `layers` one function per layer · `values` jobs to store · `opening` a store at its
place · `store_*`, `schedulers`, `runners`, `policies` the checks · `handlers` of the runners' checks
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aether_bg.testing.contracts.layers import policy_contract, runner_contract, scheduler_contract, store_contract
    from aether_bg.testing.contracts.suite import Broken, Contract, Report, Rule, Suite

__all__ = [
    "Broken", "Contract", "Report", "Rule", "Suite", "policy_contract", "runner_contract", "scheduler_contract",
    "store_contract",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imported when first named: the process of a runner imports this package for `handlers`."""
    if name in __all__:
        return getattr(import_module(f"{__name__}.{'layers' if name.endswith('_contract') else 'suite'}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
