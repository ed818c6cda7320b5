"""A real PostgreSQL on loopback for tests: one private server, databases, standbys and poolers on request. No
containers.

    with PostgresCluster() as postgres:
        with postgres.database() as url:          # an empty database for one test
            app = Aether(url)
        postgres.server.kill()                    # a crash: pg_ctl stop -m immediate
        postgres.server.start()
        standby = postgres.standby()              # by pg_basebackup, to be promoted
        pooler = postgres.pgbouncer("session")    # where it is installed

Every port is free when it is chosen, every folder private, every process ended by its handle. Started by root, the
servers run as `postgres` or `nobody`. `postgres_fixture()` makes a pytest fixture of it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from aether_bg.testing.postgres_processes import (
    PgBouncer,
    PoolMode,
    PostgresMissing,
    PostgresServer,
    PostgresStartFailed,
    find_pgbouncer,
    find_postgres,
    unprivileged,
)

__all__ = [
    "REQUIRE", "PgBouncer", "PoolMode", "PostgresCluster", "PostgresMissing", "PostgresServer", "PostgresStartFailed",
    "find_pgbouncer", "find_postgres", "postgres_fixture", "require_pgbouncer", "require_postgres",
]  # fmt: skip

REQUIRE: Final = "AETHER_REQUIRE_POSTGRES"
"""Set to 1, a missing program is a failure; otherwise the test skips."""


class PostgresCluster:
    """A server for as long as the `with` block lasts.

    `settings`: of postgresql.conf, for the server and its standbys, for example `{"fsync": "on"}` for measurements.
    """

    def __init__(self, *, settings: Mapping[str, str] | None = None) -> None:
        self._settings = dict(settings or {})
        self._stack = ExitStack()
        self._numbers = count(1)
        self._folder: Path
        self.server: PostgresServer
        """The first server: to `start`, `stop`, `kill`, `restart`, and to `execute` SQL as superuser."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._folder = Path(tempfile.mkdtemp(prefix="aether_bg-postgres-"))
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            if (user := unprivileged()) is not None:
                shutil.chown(self._folder, user)
            self.server = PostgresServer(self._folder, settings=self._settings)
            stack.callback(self.server.kill)
            self.server.create().start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def schema(self) -> str:
        """A name for a schema that no other test has."""
        return f"aether_{os.getpid()}_{next(self._numbers)}"

    @contextmanager
    def database(self, **settings: str) -> Iterator[str]:
        """The URL of an empty database, which is dropped afterwards, whatever is connected to it.

        `settings`: of that database, for example `default_transaction_isolation="serializable"`.
        """
        name = f"test_{next(self._numbers)}"
        self.server.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        for setting, value in settings.items():
            self.server.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")
        try:
            yield self.server.url(name)
        finally:
            self.server.start()
            self.server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def standby(self, *, synchronous: bool = False) -> PostgresServer:
        """A running copy of the server that follows it. `synchronous`: commits wait for it. `standby.promote()`, and
        `old.copy(standby)` for the way back."""
        made = PostgresServer(self._folder, f"standby{next(self._numbers)}", settings=self._settings)
        self._stack.callback(made.kill)
        made.copy(self.server).start()
        if synchronous:
            self.server.set(synchronous_standby_names=made.name)
        return made

    def several(self, *others: PostgresServer, database: str = "postgres") -> str:
        """One URL of the server and `others`: whichever is the primary."""
        host = re.compile(r"@([^/]+)/")
        hosts = ",".join(host.findall(server.url())[0] for server in (self.server, *others))
        return f"{host.sub(f'@{hosts}/', self.server.url(database))}?target_session_attrs=read-write"

    def pgbouncer(self, mode: PoolMode = "transaction", **settings: str) -> PgBouncer:
        """A running pooler in front of the server. `settings`: of pgbouncer.ini. Raises `PostgresMissing`."""
        made = PgBouncer(self._folder, self.server, mode, settings)
        self._stack.callback(made.kill)
        made.start()
        return made


def postgres_fixture(*, settings: Mapping[str, str] | None = None) -> Iterator[PostgresCluster]:
    """The body of a pytest fixture: yields a running `PostgresCluster`.

        @pytest.fixture(scope="session")
        def postgres():
            yield from postgres_fixture()

    Without the programs the test is skipped, or fails when AETHER_REQUIRE_POSTGRES=1.
    """
    require_postgres()
    with PostgresCluster(settings=settings) as cluster:
        yield cluster


def require_postgres() -> None:
    """Skip the test (or fail it, when AETHER_REQUIRE_POSTGRES=1) where PostgreSQL or psycopg is not installed."""
    try:
        if find_spec("psycopg") is None:
            raise PostgresMissing("psycopg", "'aether-bg[postgres]'", "pip install")
        find_postgres("postgres"), find_postgres("initdb")
    except PostgresMissing as missing:
        _absent(missing)


def require_pgbouncer() -> None:
    """The same for pgbouncer."""
    try:
        find_pgbouncer()
    except PostgresMissing as missing:
        _absent(missing)


def _absent(missing: PostgresMissing) -> None:
    if os.environ.get(REQUIRE) == "1":
        raise missing
    import pytest

    pytest.skip(str(missing))
