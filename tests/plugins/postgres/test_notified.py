"""What one process tells the others, and when they hear it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from aether_bg import PostgresStore
from aether_bg.plugins.postgres import schema
from aether_bg.plugins.postgres.connections import Link
from aether_bg.plugins.postgres.places import Place
from aether_bg.plugins.postgres.session import Session


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
