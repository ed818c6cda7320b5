"""Sealed payloads on real files: unreadable there, readable here, through every change of keys."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

pytest.importorskip("cryptography", reason="the encryption plugin needs cryptography")

from uuid import UUID

from anyio.to_thread import run_sync
from click.testing import CliRunner
from encryption import MARK, Resealed, Sealed, new_key, reseal

from aether_bg import Aether, JobContext, JobInfo, JobStatus, SQLiteStore
from aether_bg.cli.app import cli
from aether_bg.errors import InvalidOption, JobConflict
from aether_bg.model import About

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
Make = Callable[..., Aether]
OLD, NEW = new_key(), new_key()
SECRET = "4111-1111-1111-1111"


@attrs.define
class Card:
    number: str
    owner: str = "Ädä"


class Taken:
    """What the handler was given."""

    def __init__(self) -> None:
        self.cards: list[Card] = []
        self.hold = anyio.Event()
        self.holding = anyio.Event()


def with_handlers(app: Aether, taken: Taken) -> Aether:
    @app.handler("Charge", retries=0)
    async def charge(card: Card, ctx: JobContext) -> None:
        taken.cards.append(card)
        if "holds" in ctx.job.metadata and not taken.hold.is_set():
            taken.holding.set()
            await taken.hold.wait()

    @app.handler("Nothing")
    async def nothing() -> None: ...

    return app


@pytest.fixture
def taken() -> Taken:
    return Taken()


def stored(path: Path) -> dict[str, Any]:
    """The payload of each job as it stands in the file."""
    connection = sqlite3.connect(path)
    try:
        return {
            name: json.loads(payload)
            for name, payload in connection.execute("SELECT job_name, payload FROM aether_jobs")
        }
    finally:
        connection.close()


def in_files(path: Path, text: str) -> bool:
    """Whether any file of the database has this text: the file itself, its WAL, or what else lies there."""
    files = [file for file in path.parent.rglob("*") if file.is_file()]
    assert path in files
    return any(text.encode() in file.read_bytes() for file in files)


async def finished(app: Aether, name: str) -> JobInfo:
    return await app.wait(name, timeout=20)


@pytest.mark.parametrize("sealed", [True, False])
async def test_unreadable_at_rest(make_app: Make, path: Path, taken: Taken, sealed: bool) -> None:
    plugins = [Sealed({"k1": OLD})] if sealed else []
    app = with_handlers(make_app(plugins=plugins), taken)
    async with app:
        await app.enqueue("Charge", "now", Card(SECRET))
        await app.enqueue("Charge", "weekly", Card(SECRET), "@weekly")
        assert (await finished(app, "now")).status is JobStatus.COMPLETED
        assert in_files(path, SECRET) is not sealed  # the WAL is there now
        assert in_files(path, "weekly")
    assert in_files(path, SECRET) is not sealed
    assert taken.cards == [Card(SECRET)]


async def test_seen_as_given_by_the_app(make_app: Make, path: Path, taken: Taken) -> None:
    app = with_handlers(make_app(plugins=[Sealed({"k1": OLD})]), taken)
    async with app:
        first = await app.enqueue("Charge", "card", Card(SECRET), "@weekly")
        assert await app.enqueue("Charge", "card", Card(SECRET), "@weekly") == first  # though encrypted again
        with pytest.raises(JobConflict):
            await app.enqueue("Charge", "card", Card("another"), "@weekly")
        row = await app.store.get(first)
        assert row is not None
        assert row.payload == {"number": SECRET, "owner": "Ädä"}
        await app.enqueue("Nothing", "nothing")
        assert (await finished(app, "nothing")).status is JobStatus.COMPLETED
    assert {payload[MARK] for payload in stored(path).values()} == {"k1"}


async def test_a_client_seals_and_a_worker_reads(make_app: Make, path: Path, taken: Taken) -> None:
    async with make_app(plugins=[Sealed({"k1": OLD})]).client() as jobs:
        await jobs.enqueue("Charge", "card", {"number": SECRET, "owner": "Ada"})
    assert not in_files(path, SECRET)
    app = with_handlers(make_app(plugins=[Sealed({"k1": OLD})]), taken)
    async with app:
        assert (await finished(app, "card")).status is JobStatus.COMPLETED
    assert taken.cards == [Card(SECRET, "Ada")]


async def test_rotation(make_app: Make, path: Path, taken: Taken) -> None:
    async with with_handlers(make_app(plugins=[Sealed({"k1": OLD})]), taken) as app:
        for name in ("weekly", "again", "done"):
            await app.enqueue("Charge", name, Card(name), "@once" if name == "done" else "@weekly")
        await finished(app, "done")

    seal, store = Sealed({"k2": NEW, "k1": OLD}), SQLiteStore(path)
    async with with_handlers(make_app(store, plugins=[seal]), taken) as app:
        await app.enqueue("Charge", "new", Card("new"), "@weekly")
        assert {name: envelope[MARK] for name, envelope in stored(path).items()} == {
            "weekly": "k1", "again": "k1", "done": "k1", "new": "k2",
        }  # fmt: skip
        before = {job.job_name: job for job in await app.store.find()}
        assert all(job.payload["number"] == name for name, job in before.items())

        assert await reseal(store, seal) == Resealed(3, 0, ())
        assert await reseal(store, seal) == Resealed(0, 0, ())
        assert {envelope[MARK] for envelope in stored(path).values()} == {"k2"}
        after = {job.job_name: job for job in await app.store.find()}
        changed = {"schedule_rev"}
        for name, job in before.items():
            assert {k: v for k, v in attrs.asdict(job).items() if k not in changed} == {
                k: v for k, v in attrs.asdict(after[name]).items() if k not in changed
            }

    async with with_handlers(make_app(plugins=[Sealed({"k2": NEW})]), taken) as app:
        taken.cards.clear()
        await app.trigger("weekly")
        with anyio.fail_after(10):
            while not taken.cards:
                await anyio.sleep(0.01)
    assert taken.cards == [Card("weekly")]


async def test_resealed_while_it_runs(make_app: Make, path: Path, taken: Taken) -> None:
    """A running row is passed over, and sealed once it has ended."""
    async with with_handlers(make_app(plugins=[Sealed({"k1": OLD})]), taken) as app:
        await app.enqueue("Charge", "long", Card(SECRET), metadata={"holds": True}, schedule="@yearly")
    seal, store = Sealed({"k2": NEW, "k1": OLD}), SQLiteStore(path)
    async with with_handlers(make_app(store, plugins=[seal]), taken) as app:
        await app.trigger("long")
        await taken.holding.wait()
        assert await reseal(store, seal) == Resealed(0, 1, ())
        taken.hold.set()
        with anyio.fail_after(10):
            while (await reseal(store, seal)).done == 0:
                await anyio.sleep(0.01)
    assert stored(path)["long"][MARK] == "k2"


async def test_resealed_under_load(make_app: Make, path: Path, taken: Taken) -> None:
    """Jobs come, run and end all the while; each completes once, and nothing is left with the old key."""
    async with with_handlers(make_app(plugins=[Sealed({"k1": OLD})]), taken) as app:
        pass
    async with make_app(plugins=[Sealed({"k1": OLD})]).client() as jobs:
        for n in range(100):
            await jobs.enqueue("Charge", f"card-{n}", {"number": str(n), "owner": "Ada"})
    seal, store = Sealed({"k2": NEW, "k1": OLD}), SQLiteStore(path)
    async with with_handlers(make_app(store, plugins=[seal], concurrency=5), taken) as app:
        rounds: list[Resealed] = []
        with anyio.fail_after(30):
            while not rounds or rounds[-1].left or rounds[-1].done or await app.store.get_active():
                rounds.append(await reseal(store, seal))
        assert sum(r.done for r in rounds) == 100
        assert not any(r.unreadable for r in rounds)
        statuses = {job.status for job in await app.store.find()}
    assert statuses == {JobStatus.COMPLETED}
    assert sorted(int(card.number) for card in taken.cards) == list(range(100))
    assert {envelope[MARK] for envelope in stored(path).values()} == {"k2"}


async def test_a_key_that_is_gone_and_comes_back(make_app: Make, path: Path, taken: Taken) -> None:
    async with make_app(plugins=[Sealed({"k1": OLD})]).client() as jobs:
        job_id = await jobs.enqueue("Charge", "card", {"number": SECRET, "owner": "Ada"})
    store, seal = SQLiteStore(path), Sealed({"k2": NEW})
    async with with_handlers(make_app(store, plugins=[seal]), taken) as app:
        job = await finished(app, "card")
        assert job.status is JobStatus.FAILED
        assert "sealed with the key 'k1', which is not here" in (job.last_error or "")
        assert await reseal(store, seal) == Resealed(0, 0, (job_id,))
    async with with_handlers(make_app(plugins=[Sealed({"k2": NEW, "k1": OLD})]), taken) as app:
        await app.retry("card")
        assert (await finished(app, "card")).status is JobStatus.COMPLETED
    assert taken.cards == [Card(SECRET, "Ada")]
    assert not in_files(path, SECRET)


@pytest.mark.parametrize("how", ["flipped", "renamed", "another key"])
async def test_tampering_shows(make_app: Make, path: Path, taken: Taken, how: str) -> None:
    async with make_app(plugins=[Sealed({"k1": OLD})]).client() as jobs:
        await jobs.enqueue("Charge", "card", {"number": SECRET, "owner": "Ada"})
    envelope = stored(path)["card"]
    data = envelope["data"]
    envelope["data"] = data[:30] + ("A" if data[30] != "A" else "B") + data[31:] if how == "flipped" else data
    envelope[MARK] = "k2" if how == "renamed" else "k1"
    connection = sqlite3.connect(path)
    connection.execute("UPDATE aether_jobs SET payload = ?", [json.dumps(envelope)])
    connection.commit()
    connection.close()
    keys = {"k1": NEW} if how == "another key" else {"k1": OLD, "k2": OLD}
    async with with_handlers(make_app(plugins=[Sealed(keys)]), taken) as app:
        job = await finished(app, "card")
        assert job.status is JobStatus.FAILED
        assert "its seal is broken" in (job.last_error or "")
    assert not taken.cards


async def test_a_file_with_plain_payloads(make_app: Make, path: Path, taken: Taken) -> None:
    async with make_app().client() as jobs:
        await jobs.enqueue("Charge", "card", {"number": SECRET, "owner": "Ada"}, "@weekly")
    assert in_files(path, SECRET)
    async with with_handlers(make_app(plugins=[Sealed({"k1": OLD})]), taken) as app:
        await app.trigger("card")
        with anyio.fail_after(10):
            while not (job := await app.store.get_by_job_name("card")) or job.last_error is None:
                await anyio.sleep(0.01)
        assert "it is not sealed" in job.last_error
    store, seal = SQLiteStore(path), Sealed({"k1": OLD}, accept_plain=True)
    async with with_handlers(make_app(store, plugins=[seal]), taken) as app:
        assert (await reseal(store, seal)).done == 1
    connection = sqlite3.connect(path)
    connection.execute("VACUUM")
    connection.close()
    assert not in_files(path, SECRET)
    about = About.of(job)
    assert Sealed({"k1": OLD}).decode(stored(path)["card"], about) == {"number": SECRET, "owner": "Ada"}


async def test_the_command_line_has_no_keys(make_app: Make, path: Path, taken: Taken) -> None:
    app = with_handlers(make_app(plugins=[Sealed({"k1": OLD})]), taken)
    async with app:
        await app.enqueue("Charge", "card", Card(SECRET), "@weekly")
    before = stored(path)

    def command(*arguments: str) -> str:
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, result.output
        return result.output

    shown = await run_sync(command, "show", str(path), "card")
    assert MARK in shown
    assert SECRET not in shown
    await run_sync(command, "pause", str(path), "card")
    await run_sync(command, "resume", str(path), "card")
    assert stored(path) == before


@pytest.mark.parametrize("value", [None, "", 0, [], {}, {MARK: "k1", "data": ""}, ["Ä" * 1000, {"a": [1.5, True]}]])
def test_every_value_comes_back(value: Any) -> None:
    seal = Sealed({"k1": OLD}, accept_plain=True)
    about = About(what="result", job_id=UUID(int=1), handler_name="Charge", job_name="card", metadata={})
    envelope = json.loads(json.dumps(seal.encode(value, about)))
    assert seal.decode(envelope, about) == value
    assert seal.decode(envelope, attrs.evolve(about, handler_name="Other", metadata={"a": 1})) == value
    assert envelope != seal.encode(value, about)
    for other in (attrs.evolve(about, what="payload"), attrs.evolve(about, job_id=UUID(int=2))):
        with pytest.raises(ValueError, match="another job's"):
            seal.decode(envelope, other)


@pytest.mark.parametrize("keys", [{}, {"k1": b"short"}, {"k1": "0" * 32}])
def test_wrong_keys(keys: Any) -> None:
    with pytest.raises(InvalidOption, match="new_key"):
        Sealed(keys)
