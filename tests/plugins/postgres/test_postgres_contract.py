"""The store on a real server, each rule in a schema of its own: direct, and through pgbouncer."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from aether_bg import PostgresStore
from aether_bg.testing.contracts import store_contract
from aether_bg.testing.postgres import PostgresCluster

pytestmark = pytest.mark.one_loop
_urls: dict[str, str] = {}


@pytest.fixture(scope="module", autouse=True)
def servers(aether_postgres: PostgresCluster) -> Iterator[None]:
    with aether_postgres.database() as url:
        _urls["direct"] = url
        yield
    _urls.clear()


def at(way: str, place: Path) -> PostgresStore:
    return PostgresStore(_urls[way], schema=f"place_{zlib.crc32(str(place).encode()):08x}")


globals().update(store_contract(lambda place: at("direct", place), name="direct"))
