"""The private PostgreSQL that tests start: crashes, standbys, poolers, and what happens where it is not installed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from aether_bg.testing import postgres_processes as programs
from aether_bg.testing.postgres import (
    REQUIRE,
    PostgresCluster,
    PostgresMissing,
    PostgresStartFailed,
    find_postgres,
    postgres_fixture,
    require_pgbouncer,
    require_postgres,
)

psycopg = pytest.importorskip("psycopg")


@pytest.fixture(scope="module")
def own() -> Iterator[PostgresCluster]:
    yield from postgres_fixture()


def test_database_is_empty_and_dropped_whatever_is_connected(own: PostgresCluster) -> None:
    with own.database(default_transaction_isolation="serializable") as url:
        connection = psycopg.connect(url)
        assert connection.execute("SELECT count(*) FROM pg_stat_user_tables").fetchone() == (0,)
        assert connection.execute("SHOW default_transaction_isolation").fetchone() == ("serializable",)
        connection.commit()
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)


def test_names_differ(own: PostgresCluster) -> None:
    assert len({own.schema() for _ in range(10)}) == 10


def test_server_needs_its_password_and_listens_on_loopback_only(own: PostgresCluster) -> None:
    server = own.server
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.url(password="wrong"))
    assert server.execute("SHOW listen_addresses") == [("127.0.0.1",)]
    assert server.execute("SHOW unix_socket_directories") == [("",)]


def test_what_is_committed_outlives_a_crash(own: PostgresCluster) -> None:
    own.server.execute("CREATE TABLE kept (i int)")
    own.server.execute("INSERT INTO kept VALUES (1)")
    own.server.kill()
    assert not own.server.running
    own.server.start()
    assert own.server.execute("SELECT i FROM kept") == [(1,)]
    own.server.restart()
    assert own.server.execute("SELECT i FROM kept") == [(1,)]


def test_standby_is_promoted_and_the_old_primary_follows_it() -> None:
    require_postgres()
    with PostgresCluster() as cluster:
        standby = cluster.standby(synchronous=True)
        url = cluster.several(standby)
        cluster.server.execute("CREATE TABLE kept (i int)")
        assert standby.execute("SELECT pg_is_in_recovery()") == [(True,)]
        cluster.server.kill()
        standby.promote()
        with psycopg.connect(url) as connection:
            assert connection.info.port == standby.port
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
        cluster.server.copy(standby).start()
        assert cluster.server.execute("SELECT pg_is_in_recovery()") == [(True,)]
        folder, ports = cluster.server.data.parent, (cluster.server.port, standby.port)
    assert not folder.exists(), "nothing is left"
    for port in ports:
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=1)


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_pooler_is_in_between(own: PostgresCluster, mode: programs.PoolMode) -> None:
    require_pgbouncer()
    own.server.start()
    pooler = own.pgbouncer(mode)
    with psycopg.connect(pooler.url()) as connection:
        assert connection.execute("SELECT pg_backend_pid()").fetchone() != (connection.info.backend_pid,)
    pooler.stop()
    assert not pooler.running


def test_settings_change_and_go_back(own: PostgresCluster) -> None:
    own.server.start()
    own.server.set(work_mem="7MB")
    assert own.server.execute("SHOW work_mem") == [("7MB",)]
    own.server.set(work_mem=None)
    assert own.server.execute("SHOW work_mem") == [("4MB",)]


def test_server_that_cannot_start_says_why() -> None:
    require_postgres()
    with (
        pytest.raises(PostgresStartFailed, match="no_such_setting"),
        PostgresCluster(settings={"no_such_setting": "1"}),
    ):
        pass


def test_missing_programs_skip_and_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PostgresMissing(f"PostgreSQL's {name!r}", "postgresql")

    monkeypatch.delenv(REQUIRE, raising=False)
    monkeypatch.setattr("aether_bg.testing.postgres.find_postgres", missing)
    with pytest.raises(pytest.skip.Exception, match="apt-get install postgresql"):
        require_postgres()
    monkeypatch.setenv(REQUIRE, "1")
    with pytest.raises(PostgresMissing):
        require_postgres()


def test_programs_of_another_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder may be named; what it lacks is looked for elsewhere."""
    require_postgres()
    found = find_postgres("initdb")
    (tmp_path / "postgres").touch(0o755)
    monkeypatch.setenv("AETHER_POSTGRES_BIN", str(tmp_path))
    assert find_postgres("postgres") == str(tmp_path / "postgres")
    assert find_postgres("initdb") == found
    monkeypatch.setenv("AETHER_POSTGRES_BIN", "")
    assert find_postgres("initdb") == found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_servers_of_root_run_as_another_user(own: PostgresCluster) -> None:
    assert own.server.data.stat().st_uid != 0
