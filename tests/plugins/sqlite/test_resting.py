"""An idle writer rests: it is woken by operations and by other processes' writes, and by nothing else."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from aether_bg.plugins.sqlite import operations, watch
from aether_bg.plugins.sqlite.inbox import SOON, TICK, Inbox
from aether_bg.plugins.sqlite.opened import OpenFile
from aether_bg.plugins.sqlite.operations import Beat, Operation, Rank
from aether_bg.plugins.sqlite.watch import Watch
from aether_bg.plugins.sqlite.writer import Writer

linux = pytest.mark.skipif(sys.platform != "linux", reason="the system tells of no writes")
WRITE = "INSERT INTO mine VALUES (1)"
OTHER = "import sqlite3, sys; conn = sqlite3.connect(sys.argv[1]); conn.execute(sys.argv[2]); conn.commit()"


class Here:
    """A user of the file, whose event loop is this thread."""

    def __init__(self) -> None:
        self.bridge: Any = self
        self.woken = 0

    def post(self, fn: Callable[[], object]) -> bool:
        fn()
        return True

    def wake(self) -> None:
        self.woken += 1


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the writer has looked."""
    seen: list[float] = []
    look = Writer._look
    monkeypatch.setattr("aether_bg.plugins.sqlite.checkpoints.IDLE", 0.01)
    monkeypatch.setattr("aether_bg.plugins.sqlite.writer.SELDOM", 3600.0)
    monkeypatch.setattr(Writer, "_look", lambda writer: (seen.append(time.monotonic()), look(writer))[1])
    return seen


@pytest.fixture
def file(path: Path, looks: list[float]) -> Iterator[OpenFile]:
    opened = OpenFile(path)
    opened.users.append(Here())
    write(opened, "CREATE TABLE mine (number)")
    yield opened
    opened.close(5)


def write(file: OpenFile, sql: str = WRITE) -> None:
    done = threading.Event()
    op = Operation(lambda conn: conn.execute(sql), Rank.OTHER, time.monotonic() + 5)
    op.bridge, op.finished = file.users[0].bridge, done.set
    file.writer.submit(op)
    assert done.wait(10)
    assert op.error is None


def other_process(path: Path) -> None:
    subprocess.run([sys.executable, "-c", OTHER, str(path), WRITE], check=True, timeout=30)


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def rests(file: OpenFile, looks: list[float]) -> bool:
    """Whether it does within a few seconds: the WAL is moved into the database first."""
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        before = len(looks)
        time.sleep(0.3)
        if len(looks) == before:
            return True
    return False


@linux
def test_an_idle_writer_does_not_look(file: OpenFile, looks: list[float]) -> None:
    assert rests(file, looks)
    write(file)
    assert rests(file, looks), "its own writes keep it awake for a moment only"


@linux
def test_another_process_wakes_it(file: OpenFile, looks: list[float], path: Path) -> None:
    write(file)
    for _ in range(3):
        assert rests(file, looks)
        before = file.users[0].woken  # type: ignore[attr-defined]
        other_process(path)
        until(lambda before=before: file.users[0].woken > before)  # type: ignore[attr-defined]


@linux
def test_a_beat_is_kept_at_rest(file: OpenFile, looks: list[float]) -> None:
    assert rests(file, looks)
    beats: list[bool] = []
    beat = Beat(lambda conn, stopping: beats.append(stopping) is None, 0.3, 60, lambda: False)
    file.writer.keep(uuid4(), beat)
    until(lambda: len(beats) >= 4)
    assert file.writer._inbox._quiet


@linux
def test_stop_is_noticed_while_an_operation_runs(file: OpenFile, looks: list[float]) -> None:
    """The event loop may be blocked by it: only the writer can announce the stop."""
    assert rests(file, looks)
    beats, asked = list[bool](), threading.Event()
    beat = Beat(lambda conn, stopping: beats.append(stopping) is None, 3600, 3600, asked.is_set)
    beat.claims = 1
    assert beat.rest() == operations.OFTEN
    file.writer.keep(uuid4(), beat)
    time.sleep(0.3)
    asked.set()
    until(lambda: beats == [True])
    beat.settled = 1
    assert beat.rest() == operations.SELDOM


def test_where_the_system_does_not_tell_it_looks_every_tick(
    path: Path, looks: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_MODIFIED", 0x100)  # told of other things only
    opened, here = OpenFile(path), Here()
    opened.users.append(here)
    write(opened, "CREATE TABLE mine (number)")
    before = len(looks)
    until(lambda: len(looks) > before + 7)
    before = here.woken
    other_process(path)
    until(lambda: here.woken > before)
    opened.close(5)


def test_no_notes_are_asked_of_a_network(tmp_path: Path) -> None:
    (tmp_path / "wal").touch()
    blind = Watch(str(tmp_path / "wal"), trusted=False)
    assert not blind.begin(1)
    blind.wake()
    blind.close()


@linux
def test_only_noted_writes_of_its_own_make_it_trust(tmp_path: Path) -> None:
    (wal := tmp_path / "wal").touch()
    seeing = Watch(str(wal), trusted=True)
    assert not seeing.begin(0), "nothing was written yet"
    wal.write_text("x")
    assert seeing.begin(1)
    assert not seeing.rest(0)
    wal.write_text("y")
    assert seeing.rest(5)
    seeing.end()
    wal.write_text("z")  # while it is awake nothing is noted
    assert seeing.begin(2)
    assert not seeing.rest(0)
    seeing.end()
    seeing.close()
    seeing.wake()  # what comes too late does no harm
    assert not seeing.begin(3)


@linux
def test_a_look_follows_news_at_once_and_a_tick_later(tmp_path: Path) -> None:
    """The system tells of a write before it is committed."""
    (wal := tmp_path / "wal").touch()
    inbox = Inbox(Watch(str(wal), trusted=True))
    wal.write_text("x")

    def looks(news: bool = False) -> None:
        with pytest.raises(queue.Empty):
            inbox.first(5, 1, lambda: news)

    looks()
    assert inbox._quiet
    looks(news=True)
    assert (inbox._wait, inbox._quiet) == (SOON, False)
    for _ in range(10):
        looks()
        if inbox._quiet:
            break
    assert (inbox._wait, inbox._quiet) == (TICK, True)
    inbox.watch.close()
