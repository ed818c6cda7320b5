from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from aether_bg.testing.postgres import PostgresCluster

collect_ignore_glob = ["test_*.py"] if find_spec("psycopg") is None else []


@pytest.fixture
def url(aether_postgres: PostgresCluster) -> Iterator[str]:
    """Of an empty database of a real server."""
    with aether_postgres.database() as url:
        yield url
