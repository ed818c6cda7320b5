"""What becomes of the operations of one transaction, without the writer's thread (docs/protocol.md, W1, W2)."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aether_bg.plugins.sqlite import transactions as module
from aether_bg.plugins.sqlite.guard import Guard
from aether_bg.plugins.sqlite.locks import WriteLock
from aether_bg.plugins.sqlite.opened import OpenFile
from aether_bg.plugins.sqlite.operations import Operation, Rank
from aether_bg.plugins.sqlite.transactions import Transactions


@pytest.fixture
def transactions(path: Path) -> Iterator[Transactions]:
    OpenFile(path).close(5)
    lock = WriteLock(path.with_name(f"{path.name}-lock"), path)
    opened = Transactions(path, lock)
    opened.conn.execute("CREATE TABLE mine (number)")
    yield opened
    opened.conn.close()
    lock.close()


def operation(run: Callable[[sqlite3.Connection], Any]) -> Operation:
    return Operation(run, Rank.OTHER, time.monotonic() + 5)


def insert(number: int) -> Operation:
    return operation(lambda conn: conn.execute("INSERT INTO mine VALUES (?)", [number]))


def stored(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as conn:
        return [number for (number,) in conn.execute("SELECT number FROM mine")]


def refused(_: sqlite3.Connection) -> None:
    raise ValueError("no")


def test_one_that_fails_leaves_the_others(transactions: Transactions, path: Path) -> None:
    one, bad, two = batch = [insert(1), operation(refused), insert(2)]
    assert transactions.commit(batch) == batch
    assert (one.error, two.error, type(bad.error)) == (None, None, ValueError)
    assert stored(path) == [1, 2]


def test_one_alone_that_fails_takes_two_statements(transactions: Transactions) -> None:
    ran: list[str] = []
    transactions.conn.set_trace_callback(ran.append)
    assert transactions.commit([bad := operation(refused)]) == [bad]
    assert isinstance(bad.error, ValueError)
    assert ran == ["BEGIN IMMEDIATE", "ROLLBACK"]


@pytest.mark.parametrize("lost", [3, 4])
def test_what_is_committed_after_a_broken_batch_is_not_called_failed(
    transactions: Transactions, path: Path, lost: int
) -> None:
    """Another program takes the lock while the operations run again, one by one."""
    begun = 0
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)

    def take_the_lock(statement: str) -> None:
        nonlocal begun
        begun += statement == "BEGIN IMMEDIATE"
        if begun == lost and not other.in_transaction:
            other.execute("BEGIN IMMEDIATE")

    def breaks(conn: sqlite3.Connection) -> None:
        conn.execute("ROLLBACK")
        refused(conn)

    def only_in_company(conn: sqlite3.Connection) -> None:
        if begun > 1:
            refused(conn)

    transactions.conn.set_trace_callback(take_the_lock)
    one, two, culprit = batch = [insert(1), operation(only_in_company), operation(breaks)]
    with closing(other):
        assert sorted(map(id, transactions.commit(batch))) == sorted(map(id, batch))
    assert isinstance(culprit.error, ValueError)
    assert (one.error, stored(path)) == (None, [1])
    assert two.error is not None


@pytest.mark.parametrize("at", [0, 1, 2])
def test_after_a_surprise_nothing_refused_is_stored(
    transactions: Transactions, path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Of what ran and of what was left for the next transaction."""
    begin, count = Guard.begin, 0

    def surprise(guard: Guard, op: Operation) -> None:
        nonlocal count
        count += 1
        if count == at + 1:
            raise MemoryError
        begin(guard, op)

    monkeypatch.setattr(Guard, "begin", surprise)
    batch = [insert(number) for number in range(3)]
    assert transactions.commit(batch) == batch
    assert [type(op.error) for op in batch] == [MemoryError] * 3
    assert transactions.commit([*transactions.left, last := insert(9)]) == [last]
    assert last.error is None
    assert stored(path) == [9]


def test_a_surprise_at_the_end_of_a_long_batch_refuses_the_rest_too(
    transactions: Transactions, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_BATCH", 0.0)
    end = Transactions._end

    def surprise(self: Transactions, ran: list[Operation]) -> list[Operation]:
        raise MemoryError

    monkeypatch.setattr(Transactions, "_end", surprise)
    batch = [insert(1), insert(2)]
    assert transactions.commit(batch) == batch
    monkeypatch.setattr(Transactions, "_end", end)
    assert [type(op.error) for op in batch] == [MemoryError] * 2
    assert transactions.commit([*transactions.left, insert(3)])
    assert stored(path) == [3]
