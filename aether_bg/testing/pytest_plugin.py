"""pytest fixtures for tests of apps; the package registers them, so no import is needed.

`aether_clock` time that the test moves · `aether_sandbox` an app on other foundations · `aether_sidecar` a real Dapr
`aether_postgres` a real PostgreSQL

No hook, no option, no marker: a suite that uses none of them does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from aether_bg.testing.clock import FakeClock
    from aether_bg.testing.foundations import Sandbox
    from aether_bg.testing.postgres import PostgresCluster
    from aether_bg.testing.sidecar import DaprRuntime


@pytest.fixture
def aether_clock() -> FakeClock:
    """A `FakeClock` that begins in 2030; `aether_sandbox` uses it."""
    from aether_bg.testing.clock import FakeClock

    return FakeClock()


@pytest.fixture
def aether_sandbox(aether_clock: FakeClock) -> Callable[..., Sandbox]:
    """`aether_bg.testing.sandbox` with this test's clock: `async with aether_sandbox(app) as jobs`, or
    `.blocking()`."""
    from aether_bg.testing.foundations import sandbox

    return partial(sandbox, clock=aether_clock)


@pytest.fixture(scope="session")
def aether_sidecar() -> Iterator[DaprRuntime]:
    """A real scheduler and sidecar on loopback, for the whole session; `aether_sidecar.env` is for the app under test.

    Without Dapr's programs the test is skipped, or an error when AETHER_REQUIRE_DAPR=1. For one of your own, with
    options, or to kill: `aether_bg.testing.sidecar.dapr_fixture`.
    """
    from aether_bg.testing.sidecar import dapr_fixture

    yield from dapr_fixture()


@pytest.fixture(scope="session")
def aether_postgres() -> Iterator[PostgresCluster]:
    """A real PostgreSQL on loopback, for the whole session; `with aether_postgres.database() as url` is for one test.

    Without PostgreSQL's programs and psycopg the test is skipped, or an error when AETHER_REQUIRE_POSTGRES=1. For one
    of your own, with settings, or to kill: `aether_bg.testing.postgres.postgres_fixture`.
    """
    from aether_bg.testing.postgres import postgres_fixture

    yield from postgres_fixture()
