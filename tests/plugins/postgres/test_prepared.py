"""Frequent statements: prepared by hand, whatever happens to the connection in between."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from aether_bg.plugins.postgres import trouble
from aether_bg.plugins.postgres.connections import Connection, Link, cut
from aether_bg.plugins.postgres.places import Place
from aether_bg.plugins.postgres.prepared import fetch, numbered, run

SQL = b"SELECT $1::integer + 1, $2::text"


@pytest.fixture
def conn(url: str) -> Iterator[Connection]:
    with Link(Place(url)).connect("hot") as conn:
        yield conn


def test_statements_are_prepared_once(conn: Connection) -> None:
    for number in range(3):
        assert fetch(conn, SQL, [str(number), "ä'"]) == [(number + 1, "ä'")]
    assert list(conn.names or ()) == [SQL]


def test_statements_that_the_server_has_forgotten(conn: Connection) -> None:
    assert fetch(conn, SQL, ["1", "x"]) == [(2, "x")]
    conn.execute("DEALLOCATE ALL")
    assert fetch(conn, SQL, ["1", "x"]) == [(2, "x")]
    with pytest.raises(psycopg.errors.DivisionByZero), conn.transaction():
        conn.execute("SELECT 1/0")
    assert fetch(conn, SQL, ["1", "x"]) == [(2, "x")]


def test_inside_a_transaction(conn: Connection) -> None:
    conn.execute("CREATE TEMP TABLE t (n integer)")
    with conn.transaction(force_rollback=True):
        run(conn, b"INSERT INTO t VALUES ($1::integer)", ["1"])
        assert fetch(conn, b"SELECT n FROM t WHERE n = $1::integer", ["1"]) == [(1,)]
    assert fetch(conn, b"SELECT n FROM t WHERE n = $1::integer", ["1"]) == []


def test_inside_a_pipeline(conn: Connection) -> None:
    conn.execute("CREATE TEMP TABLE t (n integer PRIMARY KEY)")
    with conn.pipeline():
        run(conn, b"INSERT INTO t VALUES ($1::integer)", ["1"])
        run(conn, b"INSERT INTO t VALUES ($1::integer)", ["2"])
    assert fetch(conn, b"SELECT n FROM t WHERE n = $1::integer", ["2"]) == [(2,)]


def test_an_error_names_its_constraint(conn: Connection) -> None:
    conn.execute("CREATE TEMP TABLE t (n integer CONSTRAINT mine PRIMARY KEY)")
    run(conn, b"INSERT INTO t VALUES ($1::integer)", ["1"])
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        run(conn, b"INSERT INTO t VALUES ($1::integer)", ["1"])
    assert caught.value.diag.constraint_name == "mine"


def test_a_text_with_a_nul_is_refused_whole(conn: Connection) -> None:
    with pytest.raises(psycopg.Error):
        fetch(conn, b"SELECT $1::text[]", ['{"a\0b"}'])


def test_a_server_that_is_gone_is_a_lost_connection(conn: Connection) -> None:
    fetch(conn, SQL, ["1", "x"])
    cut(conn)
    with pytest.raises(psycopg.OperationalError) as caught:
        fetch(conn, SQL, ["1", "x"])
    assert trouble.is_lost(caught.value)
    assert conn.closed


def test_without_prepared_statements(url: str) -> None:
    link = Link(Place(url))
    link.pooled = True
    with link.connect("hot") as conn:
        assert conn.names is None
        assert fetch(conn, SQL, ["1", "x"]) == [(2, "x")]


def test_parameters_are_numbered() -> None:
    assert numbered("a %s, b = %s") == "a $1, b = $2"
