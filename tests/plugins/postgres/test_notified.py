"""What one process tells the others, and when they hear it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import anyio
import psycopg
import pytest

from aether_bg import NameHeld, PostgresStore, StoreUnsure
from aether_bg.model import Insert
from aether_bg.plugins.postgres import schema
from aether_bg.plugins.postgres.claims import Claims
from aether_bg.plugins.postgres.connections import Link
from aether_bg.plugins.postgres.opened import Opened
from aether_bg.plugins.postgres.places import Place
from aether_bg.plugins.postgres.session import Session
from aether_bg.testing.contracts.values import a_job


@pytest.fixture
def woken() -> threading.Semaphore:
    return threading.Semaphore(0)


@pytest.fixture
def session(url: str, woken: threading.Semaphore) -> Iterator[Session]:
    found = session_at(url, woken)
    yield found
    found.end()


def session_at(url: str, woken: threading.Semaphore) -> Session:
    found = Session(Link(Place(url)), schema.Schema(PostgresStore(url).schema), "a server", woken.release)
    found.ask(lambda conn: None, 10)  # connected
    return found


def test_what_arrives_with_an_answer_is_heard(url: str, session: Session, woken: threading.Semaphore) -> None:
    began = threading.Event()

    def slow(conn: Any) -> None:
        began.set()
        conn.execute("SELECT pg_sleep(0.3)")

    asked = threading.Thread(target=session.ask, args=(slow, 10))
    asked.start()
    began.wait(10)
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("""NOTIFY "aether_bg.jobs", 'of another'""")
    asked.join()
    assert woken.acquire(timeout=10)


def test_others_hear_of_each_write(url: str, session: Session, woken: threading.Semaphore) -> None:
    """However fast they follow each other; the process that writes does not wake itself."""
    heard = threading.Semaphore(0)
    other = session_at(url, heard)
    try:
        for pause in (0.0, 0.001, 0.019, 0.02, 0.021, 0.05):
            for _ in range(5):
                session.notify()
                time.sleep(pause)
                while heard.acquire(blocking=False):
                    pass
                session.notify()
                assert heard.acquire(timeout=10)
        assert not woken.acquire(timeout=0.1)
    finally:
        other.end()


@pytest.mark.anyio
@pytest.mark.one_loop
@pytest.mark.parametrize("how", ["stored", "cancelled", "unsure", "refused"])
async def test_others_hear_of_what_may_be_stored(url: str, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Where its caller is cancelled during the commit or the answer is lost; not where the write was refused."""
    told, begun, goes_on = list[str](), threading.Event(), threading.Event()
    monkeypatch.setattr(Session, "notify", lambda session: told.append("others"))
    monkeypatch.setattr(Claims, "forget", lambda claims: told.append("claims"))
    transact = Opened._transact

    def slow(opened: Opened, conn: Any, writes: Any) -> Any:
        results = transact(opened, conn, writes)
        begun.set()
        if how == "cancelled":
            goes_on.wait(10)
        if how == "unsure":
            raise StoreUnsure("a server", "the answer is lost")
        return results

    opened = await Opened.begin(PostgresStore(url)._options, lambda: None, print)
    try:
        if how == "refused":
            await opened.transact([Insert(a_job("one"))])
        told.clear()
        monkeypatch.setattr(Opened, "_transact", slow)
        async with anyio.create_task_group() as tasks:

            async def insert() -> None:
                with suppress(StoreUnsure, NameHeld):
                    await opened.transact([Insert(a_job("one"))])

            tasks.start_soon(insert)
            if how == "cancelled":
                while not begun.is_set():
                    await anyio.sleep(0.005)
                tasks.cancel_scope.cancel()
                goes_on.set()
    finally:
        await opened.end()
    assert sorted(told) == ([] if how == "refused" else ["claims", "others"])
