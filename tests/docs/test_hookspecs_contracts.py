"""The plugins that hookspecs.md shows keep the contracts, and its sentences about stores are true of SQLite's too."""

from __future__ import annotations

import ast
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import timedelta
from functools import cache, partial
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest

from aether_bg import Aether, JobInfo, JobStatus, SQLiteStore, StoreRefused, hookimpl
from aether_bg.bridge import Bridge
from aether_bg.model import Heartbeat, Insert, Purge, Query, Update
from aether_bg.plugins.kept import KeptStore
from aether_bg.plugins.memory import MemoryStore
from aether_bg.protocols import Kernel, Store
from aether_bg.testing import FakeClock, policy_contract, runner_contract, scheduler_contract, store_contract
from aether_bg.testing.contracts.values import a_job, a_run, ago, change, now

from .snippets import snippets

pytestmark = pytest.mark.anyio
DOCUMENT = "hookspecs.md"


def shown(section: str, name: str, *arguments: object) -> Any:
    """A plugin of the document's, new."""
    return defined(section)[name](*arguments)


@cache
def defined(section: str) -> dict[str, Any]:
    """What the examples of a section define; nothing of theirs is run."""
    names: dict[str, Any] = {"__name__": "hookspecs_md"}
    for snippet in snippets(DOCUMENT):
        if "prelude" in snippet.words or (snippet.section == section and snippet.words[1:] in ((), ("store",))):
            kept = [step for step in ast.parse("\n" * snippet.line + snippet.code).body if defines(step)]
            exec(compile(ast.Module(kept, []), DOCUMENT, "exec"), names)
    return names


def defines(step: ast.stmt) -> bool:
    match step:
        case ast.Import() | ast.ImportFrom() | ast.ClassDef() | ast.AnnAssign():
            return True
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return not step.decorator_list
        case ast.Assign(targets=[ast.Name(name)]):
            return name.isupper() or name == "numbers"
    return False


IN = {
    "RetryAfter": "Write a policy",
    "Lunch": "schedule_parse",
    "Tenants": "dispatch_stamp",
    "Compressed": "dispatch_codec",
    "Traced": "dispatch_wrap",
    "NobodyIsNobody": "dispatch_decide",
    "Scratch": "lifecycle_start",
    "Counting": "lifecycle_event",
}
CONTRACTS: list[Mapping[str, Callable[..., None]]] = [
    scheduler_contract(partial(shown, "Write a scheduler", "Alarms"), name="alarms"),
    runner_contract(partial(shown, "dispatch_runner", "OneAtATime"), name="one_at_a_time"),
    policy_contract(partial(shown, "Wrap every run", "Closed", ago(1)), name="closed"),
    store_contract(
        lambda place: KeptStore(shown("Write a store", "JsonLines", place / "jobs")), shared=False, name="kept"
    ),
]
for name, section in IN.items():
    words = ["@lunch"] if name == "Lunch" else []
    CONTRACTS.append(policy_contract(partial(shown, section, name), words=words, name=name.lower()))
for contract in CONTRACTS:
    globals().update({name: pytest.mark.one_loop(test) for name, test in contract.items()})


# -- what the document says of stores, and no contract asks ------------------------------------------


@pytest.fixture(
    params=[
        pytest.param(MemoryStore, id="memory", marks=pytest.mark.one_loop),
        pytest.param(partial(SQLiteStore, ":memory:"), id="sqlite", marks=pytest.mark.one_loop),
    ]
)
def made(request: pytest.FixtureRequest) -> Store:
    """Not opened."""
    store: Store = request.param()
    return store


@pytest.fixture
async def store(made: Store) -> AsyncIterator[Store]:
    async with Aether(made).client():
        yield made


def ended(number: int, **fields: Any) -> Insert:
    about: dict[str, Any] = {"status": JobStatus.COMPLETED, "due_at": None, "handled_time": ago(100 - number)}
    return Insert(a_job(f"{number}", **about | fields))


async def names(store: Store, query: Query) -> list[str]:
    return [job.job_name for job in await store.store_find(query)]


async def test_keep_above_the_number_of_rows_deletes_none(store: Store) -> None:
    await store.store_transact([ended(n) for n in range(3)])
    assert await store.store_purge(Purge(status=JobStatus.COMPLETED, keep=5)) == 0


async def test_no_limit_for_the_history_of_one_job(store: Store) -> None:
    job = a_job()
    await store.store_transact([Insert(job), Update(change(job, runs=tuple(a_run(job, token=n) for n in range(20))))])
    assert await store.store_purge(Purge(job_id=job.id, history=5, limit=1)) == 15


async def test_an_id_is_added_once(store: Store) -> None:
    job = a_job("one")
    await store.store_transact([Insert(job)])
    for again in (job, a_job("two", id=job.id)):
        with pytest.raises(StoreRefused):
            await store.store_transact([Insert(again)])


async def test_by_due_rows_without_due_at_come_first(store: Store) -> None:
    await store.store_transact([Insert(a_job("due", due_at=ago(9e8))), ended(1)])
    assert await names(store, Query(order="due")) == ["1", "due"]


async def test_what_follows_a_row_that_is_gone(store: Store) -> None:
    await store.store_transact([Insert(a_job("there"))])
    assert await names(store, Query(after=UUID(int=1))) == ["there"]
    assert await names(store, Query(after=UUID(int=1), order="due")) == []


async def test_metadata_is_equal_as_json(store: Store) -> None:
    await store.store_transact([Insert(a_job("deep", extra_properties={"k": {"n": [1, None]}}))])
    assert await names(store, Query(metadata={"k": {"n": [1, None]}})) == ["deep"]
    for other in ([True, None], [1.0, None], ["1", None], [1]):
        assert await names(store, Query(metadata={"k": {"n": other}})) == []


async def test_the_recovered_are_registered_no_longer(store: Store) -> None:
    gone, me = uuid4(), uuid4()
    await store.store_heartbeat(beat(gone, join=True))
    await store.store_heartbeat(beat(me, join=True))
    assert (await store.store_heartbeat(beat(me, recovered=(gone,)))).beats.keys() == {me}
    assert not (await store.store_heartbeat(beat(gone))).known


def beat(owner: UUID, **fields: Any) -> Heartbeat:
    return Heartbeat(owner=owner, handlers=("Work",), now=now(), interval=0.05, keep_for=60, **fields)


async def test_an_owner_that_never_left_stops_beating_when_its_store_closes(made: Store) -> None:
    me, seen = uuid4(), list[int | None]()
    async with Aether(made).client():
        assert me in (await made.store_heartbeat(beat(me, join=True))).beats
    async with Aether(made).client():
        for _ in range(2):
            seen.append((await made.store_heartbeat(beat(uuid4()))).beats.get(me))
            await anyio.sleep(0.2)
    assert seen[0] == seen[1]


async def test_an_app_and_its_client_use_one_store(made: Store) -> None:
    app = Aether(made)
    app.handler("Work")(lambda: None)
    async with app:
        async with app.client() as client:
            await client.wait(await client.enqueue("Work"), timeout=10)
        await anyio.sleep(0.7)  # two heartbeats: the store is open still, and knows its owner
        await app.wait(await app.enqueue("Work"), timeout=10)
        assert (await app.health())["problems"] == {}


# -- schedulers ---------------------------------------------------------------------------------------


async def test_a_thread_reaches_the_loop_by_a_bridge() -> None:
    bridge, done = Bridge(), anyio.Event()
    threading.Thread(target=bridge.post, args=(done.set,)).start()
    with anyio.fail_after(10):
        await done.wait()


class Timers:
    """A push scheduler whose engine calls back on threads; it has no bridge."""

    kernel: Kernel | None = None
    health: str | Callable[[], str | None] | None = None

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        self.kernel = kernel
        await anyio.sleep_forever()

    @hookimpl
    async def schedule_arm(self, job: JobInfo) -> bool:
        kernel = self.kernel
        if kernel is None or job.due_at is None or job.occurrence is None:
            return False
        fire = partial(kernel.fire, kernel.store_id, job.id, job.seq, job.occurrence)
        wait = max(0.0, (job.due_at - kernel.clock.now()).total_seconds())
        threading.Timer(wait, kernel.spawn, (fire, "timers")).start()
        return True


async def test_a_push_scheduler_spawns_from_its_threads() -> None:
    app = Aether(":memory:", scheduler=Timers())
    app.handler("Work")(lambda: None)
    async with app:
        await app.wait(await app.enqueue("Work", schedule=timedelta(seconds=0.1)), timeout=10)


class Forgetful:
    """Its engine promises to hold what is armed, and loses it."""

    def __init__(self) -> None:
        self.told: list[JobInfo] = []

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        await anyio.sleep_forever()

    @hookimpl
    async def schedule_arm(self, job: JobInfo) -> bool:
        self.told.append(job)
        return True


async def test_what_looks_armed_is_armed_again_when_it_is_overdue_by_a_minute() -> None:
    clock, scheduler = FakeClock(), Forgetful()
    app = Aether(":memory:", scheduler=scheduler, clock=clock)
    app.handler("Work")(lambda: None)
    async with app:
        await app.enqueue("Work")
        with anyio.fail_after(10):
            while not scheduler.told or await app.store.find(unarmed=True):
                await anyio.sleep(0.01)
        await anyio.sleep(0.5)  # what was enqueued may be told twice
        scheduler.told.clear()
        clock.advance(seconds=50)
        await anyio.sleep(0.7)
        assert not scheduler.told, "the kernel believes what was promised"
        clock.advance(seconds=20)
        with anyio.fail_after(10):
            while not scheduler.told:
                await anyio.sleep(0.01)
        assert (scheduler.told[0].seq, scheduler.told[0].armed_seq) == (0, 0)


@pytest.mark.parametrize("said", ["its engine is away", lambda: "its engine is away"], ids=["attribute", "method"])
async def test_health_asks_the_scheduler(said: Any) -> None:
    scheduler = Timers()
    async with Aether(":memory:", scheduler=scheduler) as app:
        for well in (None, lambda: None):
            scheduler.health = well
            assert (await app.health())["ok"]
        scheduler.health = said
        health = await app.health()
        assert (health["ok"], health["problems"]) == (False, {"scheduler": "its engine is away"})
