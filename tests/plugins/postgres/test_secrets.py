"""Passwords are never shown: not in a repr, an error, a log, a pickle; and connection strings that are wrong."""

from __future__ import annotations

import copy
import logging
import pickle
import traceback
from typing import Any

import psycopg
import pytest

from aether_bg import Aether, InvalidOption, PostgresStore, SchemaMissing, StoreDenied, StoreError, StoreUnreachable
from aether_bg.plugins.postgres.places import is_local, protection
from aether_bg.testing.postgres import PostgresCluster

SECRET = "s3cr3t"
pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


def test_a_store_shows_no_secret() -> None:
    url = f"postgresql://ada:{SECRET}@db.example.org:5433/jobs?sslpassword={SECRET}"
    store = PostgresStore(url, session=url, schema="mine")
    for said in (repr(store), str(store), repr(vars(store)), repr(store._options)):
        assert SECRET not in said
    assert repr(store) == "<PostgresStore jobs on db.example.org:5433 schema 'mine'>"
    assert SECRET.encode() not in pickle.dumps(store)
    again = pickle.loads(pickle.dumps(store))
    assert repr(again) == repr(store)
    assert again._options.place.conninfo == "user=ada dbname=jobs host=db.example.org port=5433"
    assert repr(copy.copy(store)) == repr(store)


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://ada:{SECRET}@host/jobs?sslmod=x",
        f"host=127.0.0.1 password='{SECRET} user=ada",
        f"postgresql://ada:{SECRET}:more@ho st/jobs%zz",
        f"mysql://ada:{SECRET}@host/jobs",
        "",
        " ",
        None,
        5,
        b"postgresql://host",
    ],
)  # fmt: skip
def test_a_wrong_connection_string(dsn: Any) -> None:
    with pytest.raises(InvalidOption, match="must be a") as raised:
        PostgresStore(dsn)
    assert SECRET not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    "options",
    [
        {"schema": "Jobs"}, {"schema": 'a"b'}, {"schema": "x" * 49}, {"schema": ""}, {"schema": "pg_x"}, {"schema": 5},
        {"schema": "1a"}, {"schema": "information_schema"}, {"migrate": "yes"}, {"migrate": True}, {"fence": 1},
        {"connect_for": -1}, {"connect_for": "5"}, {"busy": 0}, {"busy": True}, {"busy": float("nan")},
        {"unit_timeout": float("inf")}, {"session": "nonsense"}, {"session": 5},
    ],
)  # fmt: skip
def test_a_wrong_option(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption) as raised:
        PostgresStore("postgresql://host/jobs", **options)
    assert next(iter(options)) in str(raised.value)


async def _start(store: PostgresStore) -> None:
    async with Aether(store, scheduler="timer"):
        pass


async def test_refusals(aether_postgres: PostgresCluster, url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each has an error of its own, at once, and none shows the password."""
    caplog.set_level(logging.DEBUG)
    wrong = aether_postgres.server.url("postgres", password=SECRET)
    cases: list[tuple[type[StoreError], str, dict[str, Any]]] = [
        (StoreDenied, wrong, {}),
        (StoreDenied, aether_postgres.server.url("postgres", role="nobody", password=SECRET), {}),
        (StoreError, aether_postgres.server.url("no_such_database"), {}),
        (StoreUnreachable, f"postgresql://ada:{SECRET}@127.0.0.1:1/jobs", {"connect_for": 0.2}),
        (SchemaMissing, url, {"migrate": "check"}),
        (SchemaMissing, url, {"migrate": "off"}),
    ]
    for kind, place, options in cases:
        with pytest.raises(kind) as raised:
            await _start(PostgresStore(place, **options))
        said = "".join(traceback.format_exception(raised.value))
        assert SECRET not in said
        assert aether_postgres.server.password not in said
    assert SECRET not in caplog.text


def test_what_tls_does() -> None:
    assert protection("db.example.org", False, "prefer") == "plain"
    assert protection("db.example.org", True, "require") == "encrypted, not verified"
    assert protection("db.example.org", True, "verify-full") == "verified"
    for host in (None, "", "/run/postgresql", "localhost", "127.0.0.1", "::1", "@abstract"):
        assert is_local(host)
        assert protection(host, False, "prefer") == "local"
    assert not is_local("10.0.0.1")


async def test_a_warning_where_others_can_listen(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aether_bg.plugins.postgres.places.is_local", lambda host: False)
    await _start(PostgresStore(url))
    (said,) = [record.getMessage() for record in caplog.records if "sslmode=verify-full" in record.getMessage()]
    assert "is plain" in said
    assert psycopg.conninfo.conninfo_to_dict(url)["password"] not in said
