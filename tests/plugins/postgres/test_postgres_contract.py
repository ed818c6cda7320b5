"""The store on a real server, each rule in a schema of its own: direct, and through pgbouncer."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from aether_bg import PostgresStore
from aether_bg.testing.contracts import store_contract
from aether_bg.testing.postgres import REQUIRE, PostgresCluster, require_pgbouncer

pytestmark = pytest.mark.one_loop
_urls: dict[str, str] = {}
_pools = ExitStack()


@pytest.fixture(scope="module", autouse=True)
def server(aether_postgres: PostgresCluster) -> Iterator[None]:
    with aether_postgres.database() as url:
        _urls["direct"] = url
        with _pools:
            yield
    _urls.clear()


@pytest.fixture(autouse=True)
def pooler(request: pytest.FixtureRequest, aether_postgres: PostgresCluster) -> None:
    """For the rules that go through one."""
    for mode in ("transaction", "session"):
        if request.node.name.startswith(f"test_{mode}_") and mode not in _urls:
            if os.environ.get(REQUIRE) != "1":
                pytest.skip(f"with {REQUIRE}=1, as `nox -s postgres` has it")
            require_pgbouncer()
            made = aether_postgres.pgbouncer(mode)
            _pools.callback(made.stop)
            _urls[mode] = made.url(_urls["direct"].rsplit("/", 1)[1])


def at(way: str, place: Path) -> PostgresStore:
    """In session mode with a session of its own, around the pooler."""
    session = _urls["direct"] if way == "session" else None
    return PostgresStore(_urls[way], schema=f"place_{zlib.crc32(str(place).encode()):08x}", session=session)


globals().update(store_contract(lambda place: at("direct", place), name="direct"))
globals().update(store_contract(lambda place: at("session", place), name="session"))
globals().update(store_contract(lambda place: at("transaction", place), name="transaction"))
del globals()["test_transaction_others_are_woken"]  # no LISTEN there: others look once a second
