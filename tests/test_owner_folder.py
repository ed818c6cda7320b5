"""Owners as files: who is alive, who is proven dead, what is left behind, and what does not disturb it.

The contract of the LMDB store asks the rest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from aether_bg.model import Alive, Heartbeat
from aether_bg.owners import OwnerFolder
from aether_bg.testing.contracts.values import now

STORE = UUID(int=1)
posix = pytest.mark.skipif(os.name != "posix", reason="flock and fork")


@contextmanager
def opened(folder: Path, look: Callable[[], object] = lambda: None) -> Iterator[OwnerFolder]:
    owners = OwnerFolder(folder, look)
    owners.open()
    try:
        yield owners
    finally:
        owners.close()


def beat(owners: OwnerFolder, owner: UUID, **fields: Any) -> Alive:
    about: dict[str, Any] = {"handlers": ("Work",), "now": now(), "interval": 0.1, "keep_for": 60}
    return owners.answer(Heartbeat(owner=owner, **about | fields), STORE, [])


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.05)


def test_an_owner_that_leaves_leaves_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "owners") as owners:
        me = uuid4()
        assert beat(owners, me, join=True, declares=("daily",)).declared == {"daily"}
        assert owners.knows(me)
        beat(owners, me, stopping=True)
        assert not beat(owners, me, leave=True).known
        assert not owners.knows(me)
        assert list((tmp_path / "owners").iterdir()) == []


@posix
def test_an_owner_whose_store_closed_is_dead_until_it_is_recovered(tmp_path: Path) -> None:
    gone, me = uuid4(), uuid4()
    with opened(tmp_path / "owners") as owners:
        beat(owners, me, join=True)
        with opened(tmp_path / "owners") as others:
            beat(others, gone, join=True, stopping=True)
            assert beat(owners, me).dead == ()
        alive = beat(owners, me)
        assert (alive.dead, alive.stopping) == ((gone,), {gone})
        assert beat(owners, me, recovered=(gone,)).beats.keys() == {me}
    assert [file.name for file in (tmp_path / "owners").iterdir()] == [str(me)]


def test_an_owner_that_was_recovered_stops_beating(tmp_path: Path) -> None:
    with opened(tmp_path / "owners") as owners, opened(tmp_path / "owners") as others:
        frozen, me = uuid4(), uuid4()
        beat(owners, me, join=True)
        beat(others, frozen, join=True, stop_asked=lambda: True)
        beat(owners, me, recovered=(frozen,))
        time.sleep(0.3)  # its thread beats, and marks
        assert not beat(others, frozen).known
        assert beat(owners, me).beats.keys() == {me}
        assert [file.name for file in (tmp_path / "owners").iterdir()] == [str(me)]


def test_each_beat_counts_one_and_they_end(tmp_path: Path) -> None:
    with opened(tmp_path / "owners") as owners:
        me = uuid4()
        first = beat(owners, me, join=True, keep_for=0.5).beats[me]
        time.sleep(1)
        last = beat(owners, me, keep_for=0).beats[me]
        assert 1 <= last - first <= 5
        time.sleep(0.3)
        assert beat(owners, me, keep_for=0).beats[me] == last


@posix
@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b'{"handlers": 1, "declares": []}'])
def test_a_file_that_cannot_be_read_is_an_owner_without_handlers(tmp_path: Path, text: bytes) -> None:
    with opened(tmp_path / "owners") as owners:
        broken, me = uuid4(), uuid4()
        (tmp_path / "owners" / str(broken)).write_bytes(text)
        (tmp_path / "owners" / "README").write_text("not an owner")
        alive = beat(owners, me, join=True)
        assert (alive.dead, alive.beats.keys(), alive.advertised) == ((broken,), {broken, me}, {"Work"})


def test_looks_that_fail_do_not_stop_the_beats(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def look() -> None:
        raise OSError("the disk is away")

    with opened(tmp_path / "owners", look) as owners:
        me = uuid4()
        first = beat(owners, me, join=True).beats[me]
        until(lambda: beat(owners, me).beats[me] > first)
    assert len(caplog.records) == 1


@posix
def test_a_killed_process_is_proven_dead(tmp_path: Path) -> None:
    owner = uuid4()
    code = (
        "import sys, time; from pathlib import Path; from uuid import UUID; sys.path.insert(0, sys.argv[1])\n"
        "from test_owner_folder import opened, beat\n"
        "with opened(Path(sys.argv[2])) as owners:\n"
        "    beat(owners, UUID(sys.argv[3]), join=True); print('joined', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "owners"), str(owner)]
    with opened(tmp_path / "owners") as owners, subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            me = uuid4()
            assert beat(owners, me, join=True).dead == ()
        finally:
            process.kill()
        process.wait()
        assert beat(owners, me).dead == (owner,)


@posix
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_hold_the_lock(tmp_path: Path) -> None:
    with opened(tmp_path / "owners") as owners:
        gone, me = uuid4(), uuid4()
        beat(owners, me, join=True)
        with opened(tmp_path / "owners") as others:
            beat(others, gone, join=True)
            reads, writes = os.pipe()
            if (child := os.fork()) == 0:
                os.read(reads, 1)
                os._exit(0)
            assert beat(owners, me).dead == ()  # the lock is still with this process
        try:
            until(lambda: beat(owners, me).dead == (gone,))
        finally:
            os.write(writes, b"x")
            os.waitpid(child, 0)
            os.close(reads)
            os.close(writes)
