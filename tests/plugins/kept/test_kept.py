"""A store that keeps its rows in a place: what is saved, what a failed save leaves, and what is not read.

Its contract runs in tests/docs/test_hookspecs_contracts.py, on the place of hookspecs.md.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import anyio
import pytest
from recovered import run_to_the_end

from aether_bg import Aether, JobStatus, RunOutcome
from aether_bg.errors import NotADatabase, NotStarted, StoreBroken, StoreBusy, StoreFull, StoreReadOnly, StoreTrouble
from aether_bg.model import Claim, Heartbeat, Insert, Query, Runs
from aether_bg.plugins.kept import KeptStore, TextRows
from aether_bg.testing.contracts.values import a_job, now

pytestmark = pytest.mark.anyio


class Texts:
    """A place in memory that outlives its stores. `trouble`: what the next saves raise."""

    def __init__(self) -> None:
        self.saved: dict[str, str | None] = {}
        self.trouble: list[Exception] = []
        self.calls: list[str] = []

    def open(self) -> Mapping[str, str]:
        self.calls.append("open")
        return {key: text for key, text in self.saved.items() if text is not None}

    def save(self, changes: Mapping[str, str | None]) -> None:
        assert threading.current_thread() is not threading.main_thread()
        if self.trouble:
            raise self.trouble.pop(0)
        self.saved |= changes

    def close(self) -> None:
        self.calls.append("close")


def an_app(place: Texts) -> Aether:
    app = Aether(KeptStore(place), scheduler="timer", grace=1)
    app.handler("Work")(lambda: None)
    return app


async def test_what_is_saved_is_what_memory_has() -> None:
    place = Texts()
    app = an_app(place)
    async with app:
        parent = await app.enqueue("Work")
        child = await app.enqueue("Work", "child", after=[parent])
        await app.wait(child, timeout=10)
        await app.pause(handler="Work")
        waiting = await app.enqueue("Work", "waiting")
    async with an_app(place) as app:
        rows = {row.id: row for row in await app.store.find()}
        assert (rows[parent].status, rows[child].status) == (JobStatus.COMPLETED, JobStatus.COMPLETED)
        assert rows[waiting].handler_paused
        assert [row.id for row in await app.store.find(parents_of=child)] == [parent]
        assert (await app.store.history(child))[0].outcome is RunOutcome.COMPLETED
        await app.delete(waiting)
        await app.store.purge()
        assert await app.store.find() == []
    assert [key.split("/")[0] for key, text in place.saved.items() if text is not None] == ["id", "holds"]


class Following(Texts):
    """Another process could read each change like this."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = TextRows()

    def save(self, changes: Mapping[str, str | None]) -> None:
        super().save(changes)
        with self.rows.transaction():
            for key, text in changes.items():
                if key != "id":
                    self.rows.load(key, text)


async def test_rows_that_take_in_the_changes_of_others_become_the_same() -> None:
    place = Following()
    store = KeptStore(place)
    app = Aether(store, scheduler="timer", grace=1)
    app.handler("Work")(lambda: None)
    app.handler("Fails")(lambda: 1 / 0)
    async with app:
        parent = await app.enqueue("Work", schedule=timedelta(seconds=0.2))
        child = await app.enqueue("Work", "child", after=[parent])
        orphan = await app.enqueue(
            "Work", "orphan", after=[await app.enqueue("Fails", schedule=timedelta(seconds=0.2))]
        )
        for _ in range(3):  # each takes the name from the one before it
            await app.wait(await app.enqueue("Work", "again", unique_for=0), timeout=10)
        hourly = await app.enqueue("Work", "hourly", schedule="@hourly")
        await app.pause(handler="Work")
        await app.resume(handler="Work")
        await app.pause(handler="Fails")
        await app.wait(child, timeout=10)
        await app.resume(handler="Fails")
        await app.wait(orphan, timeout=10)
        assert tables(place.rows) == tables(store._rows)
        assert place.rows.by_id
        assert place.rows.links_of
        await app.delete(hourly)
        await app.store.purge()
        assert tables(place.rows) == tables(store._rows)
        assert not any((place.rows.by_id, place.rows.runs_of, place.rows.links_of, place.rows.holders))
        assert place.rows.owners
    assert tables(place.rows) == tables(store._rows)
    assert not place.rows.owners


def tables(rows: TextRows) -> dict[str, dict[object, object]]:
    """All of them; jobs with all their fields."""
    found = {name: dict(table) for name, table in vars(rows).items() if isinstance(table, dict)}
    return found | {"by_id": {id_: vars(job) for id_, job in rows.by_id.items()}}


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (OSError(errno.ENOSPC, "no space"), StoreFull),
        (OSError(errno.EIO, "bad disk"), StoreBroken),
        (StoreBusy("it", "is busy"), StoreBusy),
    ],
)
async def test_a_save_that_fails_has_not_happened(raised: Exception, error: type[StoreTrouble]) -> None:
    place = Texts()
    store = KeptStore(place)
    async with Aether(store).client():
        place.trouble.append(raised)
        with pytest.raises(error):
            await store.store_transact([Insert(a_job("one")), Insert(a_job("two"))])
        assert await store.store_find(Query()) == []
        await store.store_transact([Insert(a_job("one"))])  # the name is free
        me = uuid4()
        await store.store_heartbeat(
            Heartbeat(owner=me, handlers=("Work",), now=now(), interval=5, keep_for=60, join=True)
        )
        place.trouble.append(raised)
        claim = Claim(owner=me, now=now(), limit=1, handlers=("Work",))
        with pytest.raises(error):
            await store.store_claim(claim)
        assert len((await store.store_claim(claim)).jobs) == 1
        assert await store.store_runs(Runs()) == []


async def test_a_place_opens_once_for_several_apps_and_closes_after_the_last() -> None:
    place = Texts()
    store = KeptStore(place)
    async with Aether(store).client():
        async with Aether(store).client():
            assert place.calls == ["open"]
        assert place.calls == ["open"]
    assert place.calls == ["open", "close"]


@pytest.mark.parametrize(
    ("key", "text"),
    [("by_id/x", "{}"), ("by_id/x", "not JSON"), ("strange/key", "{}"), ("", ""), ("holds/Work", "[]"), ("id", "no")],
)
async def test_what_it_cannot_read_is_named_and_left_alone(key: str, text: str) -> None:
    place = Texts()
    place.saved = {key: text}
    with pytest.raises(NotADatabase, match="cannot be read"):
        async with an_app(place).client():
            pass
    assert place.saved == {key: text}
    assert place.calls == ["open", "close"]


@pytest.mark.parametrize(
    ("raised", "error"),
    [(PermissionError(errno.EACCES, "not yours"), StoreReadOnly), (ValueError("line 3"), NotADatabase)],
)
async def test_a_place_that_does_not_open_says_why(raised: Exception, error: type[Exception]) -> None:
    place = Texts()

    def refuse() -> Mapping[str, str]:
        raise raised

    place.open = refuse  # type: ignore[method-assign]
    with pytest.raises(error, match=str(raised.args[-1])):
        async with an_app(place).client():
            pass
    assert place.calls == []


async def test_a_stop_is_saved_while_the_loop_is_blocked() -> None:
    place, me, asked = Texts(), uuid4(), threading.Event()
    store = KeptStore(place)
    async with Aether(store).client():
        await store.store_heartbeat(
            Heartbeat(
                owner=me, handlers=("Work",), now=now(), interval=5, keep_for=60, join=True, stop_asked=asked.is_set
            )
        )
        assert '"stopping":false' in (place.saved[f"owners/{me}"] or "")
        asked.set()
        blocked_until = threading.Event()
        for _ in range(100):
            if '"stopping":true' in (place.saved[f"owners/{me}"] or ""):
                break
            blocked_until.wait(0.1)  # blocks the loop
        assert '"stopping":true' in (place.saved[f"owners/{me}"] or "")


async def test_it_says_that_it_is_not_open() -> None:
    store = KeptStore(Texts())
    for _ in range(2):
        with pytest.raises(NotStarted, match="not open"):
            await store.store_find(Query())
        async with Aether(store).client():
            assert await store.store_find(Query()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_writes_nothing() -> None:
    """Its rows would be saved over those of the parent."""
    place, reads = Texts(), os.pipe()

    async def main() -> None:
        store = KeptStore(place)
        async with Aether(store).client():
            if (child := os.fork()) == 0:
                try:
                    store.store_transact([Insert(a_job("child"))]).send(None)
                except BaseException as error:
                    os.write(reads[1], type(error).__name__.encode())
                finally:
                    os._exit(0)
            os.waitpid(child, 0)

    anyio.run(main)
    assert os.read(reads[0], 100) == b"ForkedProcess"
    for end in reads:
        os.close(end)


# -- the place of hookspecs.md, under `kill -9` ------------------------------------------------------

PLACE = (Path(__file__).parents[3] / "hookspecs.md").read_text(encoding="utf-8")
PLACE = next(block for block in PLACE.split("```python\n") if "class JsonLines" in block).split("```")[0]
FLOOD = """
import anyio
from itertools import count
from aether_bg import Aether

app = Aether(KeptStore(JsonLines(Path("jobs"))), scheduler="timer")
app.handler("Tick")(lambda n: None)

async def flood():
    async with app:
        for n in count():
            print(await app.enqueue("Tick", payload=n), flush=True)

anyio.run(flood)
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
@pytest.mark.one_loop  # of the process that is killed, it is always asyncio
@pytest.mark.parametrize("lines", [1, 100])
async def test_kill_9_loses_nothing_that_was_promised(tmp_path: Path, lines: int) -> None:
    with subprocess.Popen([sys.executable, "-c", PLACE + FLOOD], cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        promised = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        promised += process.stdout.read().splitlines(keepends=True)
    ids = {UUID(line.decode().strip()) for line in promised if line.endswith(b"\n")}
    names: dict[str, object] = {}
    exec(PLACE, names)
    app = Aether(KeptStore(names["JsonLines"](tmp_path / "jobs")), scheduler="timer")  # type: ignore[operator]
    app.handler("Tick")(lambda n: None)
    async with app:
        rows = await run_to_the_end(app)
    assert rows.keys() >= ids
    assert {row.status for row in rows.values()} == {JobStatus.COMPLETED}
