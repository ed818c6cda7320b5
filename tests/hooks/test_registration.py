"""What registration refuses, by plugin, hook and remedy; and the order and effect of the hooks it lets in."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

from aether_bg import (
    Aether,
    DuplicatePlugin,
    HookShape,
    IncompleteLayer,
    InvalidSchedule,
    JobContext,
    JobInfo,
    JobStatus,
    LayerConflict,
    NotAPlugin,
    PluginError,
    SQLiteStore,
    UnknownHook,
    hookimpl,
    schedule,
)
from aether_bg.hookspecs import LAYERS, parameters_of
from aether_bg.model import About, Ended, Event, Failure, GiveUpNow, HandlerInfo, Raised, RetryAt
from aether_bg.protocols import Kernel, Runner
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
Make = Callable[..., Aether]
NAME = r"[\w.]*\b"


# -- mistakes --------------------------------------------------------------------------------------


class Misspelt:
    @hookimpl
    async def lifecycle_events(self, event: Any) -> None: ...


class MisspeltStore:
    @hookimpl
    async def store_transaction(self, writes: Any) -> Any: ...


class Strange:
    @hookimpl
    def xyzzy(self) -> None: ...


class NotAsync:
    @hookimpl
    def schedule_run(self, kernel: Any) -> None: ...


class TooAsync:
    @hookimpl
    async def dispatch_decide(self, ctx: Any, failure: Any) -> None: ...


class WrongParameter:
    @hookimpl
    def dispatch_stamp(self, row: Any) -> None: ...


class Defaulted:
    @hookimpl
    async def schedule_run(self, kernel: Any = None) -> None: ...


class KeywordOnly:
    @hookimpl
    def dispatch_decide(self, ctx: Any, *, failure: Any) -> None: ...


class Star:
    @hookimpl
    def dispatch_wrap(self, *ctx: Any) -> None: ...


class StarStar:
    @hookimpl
    def dispatch_wrap(self, **ctx: Any) -> None: ...


class Missing:
    @hookimpl
    async def store_history(self, job_id: Any) -> Any: ...


class Swapped:
    @hookimpl
    async def store_history(self, limit: Any, job_id: Any) -> Any: ...


class Wrapper:
    @hookimpl(wrapper=True)
    def dispatch_wrap(self, ctx: Any) -> Any:
        return (yield)


class OldWrapper:
    @hookimpl(hookwrapper=True)
    def dispatch_stamp(self, job: Any) -> Any:
        yield


class Renamed:
    @hookimpl(specname="schedule_pars")
    def mine(self, text: Any, timezone: Any) -> None: ...


@pytest.mark.parametrize(
    ("plugin", "kind", "hook", "remedy"),
    [
        (Misspelt, UnknownHook, "lifecycle_events", "Did you mean 'lifecycle_event'?"),
        (MisspeltStore, UnknownHook, "store_transaction", "Did you mean 'store_transact'?"),
        (Renamed, UnknownHook, "mine", "Did you mean 'schedule_parse'?"),
        (Strange, UnknownHook, "xyzzy", "hookspecs.md lists the hooks."),
        (NotAsync, HookShape, "schedule_run", "Write async def schedule_run(…)."),
        (TooAsync, HookShape, "dispatch_decide", "Write def dispatch_decide(…)."),
        (WrongParameter, HookShape, "dispatch_stamp", "Write def dispatch_stamp(self, job)."),
        (Defaulted, HookShape, "schedule_run", "def schedule_run(self, kernel)."),
        (KeywordOnly, HookShape, "dispatch_decide", "Write def dispatch_decide(self, ctx, failure)."),
        (Star, HookShape, "dispatch_wrap", "Write def dispatch_wrap(self, ctx)."),
        (StarStar, HookShape, "dispatch_wrap", "Write def dispatch_wrap(self, ctx)."),
        (Missing, HookShape, "store_history", "def store_history(self, job_id, limit)."),
        (Swapped, HookShape, "store_history", "def store_history(self, job_id, limit)."),
        (Wrapper, HookShape, "dispatch_wrap", "implement dispatch_wrap."),
        (OldWrapper, HookShape, "dispatch_stamp", "implement dispatch_wrap."),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_hook_that_does_not_fit(plugin: type, kind: type[PluginError], hook: str, remedy: str) -> None:
    with pytest.raises(PluginError) as caught:
        Aether(":memory:", plugins=[plugin()])
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"{__name__}.{plugin.__name__}.{hook}: ")
    assert remedy in str(caught.value)


def test_a_misspelt_hook_is_found_wherever_the_plugin_is_given() -> None:
    class Store(SQLiteStore):
        @hookimpl
        async def store_finds(self, query: Any) -> Any: ...

    for given in (
        lambda: Aether(Store(":memory:")),
        lambda: Aether(":memory:", scheduler=Misspelt()),
        lambda: Aether(plugins=[Store(":memory:")]),
    ):
        with pytest.raises(UnknownHook, match=r"Did you mean '(store_find|lifecycle_event)'"):
            given()


class Scheduling:
    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        await anyio.sleep_forever()


class OtherScheduling(Scheduling):
    pass


class ArmsOnly:
    @hookimpl
    async def schedule_arm(self, job: JobInfo) -> bool:
        return True


def half_of_a_store(lacking: str) -> Any:
    """Every hook of the persistence layer but one; each with the parameters of its specification."""

    def hook(name: str) -> Any:
        names: dict[str, Any] = {}
        parameters = ", ".join(["self", *parameters_of(name)])
        exec(f"async def {name}({parameters}): ...", names)
        return hookimpl(names[name])

    return type("Half", (), {name: hook(name) for name in LAYERS["persistence"] if name != lacking})()


@pytest.mark.parametrize("lacking", LAYERS["persistence"])
def test_half_a_store_names_what_it_lacks(lacking: str) -> None:
    with pytest.raises(IncompleteLayer) as caught:
        Aether(half_of_a_store(lacking))
    text = str(caught.value)
    assert "Half" in text
    assert "persistence" in text
    assert f"lacks {lacking}." in text
    assert "Implement all of its hooks" in text


def test_a_whole_store_is_taken() -> None:
    assert isinstance(Aether(half_of_a_store("nothing")), Aether)


def test_arming_without_running_is_half_a_layer() -> None:
    with pytest.raises(IncompleteLayer, match=r"ArmsOnly: it owns the scheduling layer but lacks schedule_run\. Impl"):
        Aether(":memory:", plugins=[ArmsOnly()])


@pytest.mark.parametrize(
    "given",
    [
        lambda: Aether(":memory:", plugins=[Scheduling(), OtherScheduling()]),
        lambda: Aether(":memory:", scheduler=Scheduling(), plugins=[OtherScheduling()]),
        lambda: Aether(":memory:", scheduler=Scheduling(), plugins=[ArmsOnly(), OtherScheduling()]),
    ],
)
def test_two_owners_of_scheduling(given: Callable[[], Aether]) -> None:
    with pytest.raises(LayerConflict) as caught:
        given()
    text = str(caught.value)
    assert "layer scheduling" in text
    assert f"{__name__}.Scheduling" in text
    assert f"{__name__}.OtherScheduling" in text
    assert text.endswith("Pass one of them.")


@pytest.mark.parametrize("store", [":memory:", SQLiteStore(":memory:")], ids=["path", "object"])
def test_two_owners_of_persistence(store: Any) -> None:
    with pytest.raises(LayerConflict, match=r"layer persistence.*SQLiteStore and .*SQLiteStore.*Pass one"):
        Aether(store, plugins=[SQLiteStore(":memory:")])
    with pytest.raises(LayerConflict, match="layer persistence"):
        Aether(store, plugins=[half_of_a_store("store_stats")])  # a half-swapped store


class Quiet:
    @hookimpl
    async def lifecycle_event(self, event: Event) -> None: ...


@attrs.define
class Equal:
    @hookimpl
    async def lifecycle_event(self, event: Event) -> None: ...


@attrs.define(eq=False)
class Apart:
    @hookimpl
    async def lifecycle_event(self, event: Event) -> None: ...


def test_the_same_twice() -> None:
    quiet, store = Quiet(), SQLiteStore(":memory:")
    with pytest.raises(DuplicatePlugin, match=rf"{NAME}Quiet: it was given twice\. Pass it once"):
        Aether(":memory:", plugins=[quiet, quiet])
    with pytest.raises(DuplicatePlugin, match=r"SQLiteStore: it was given twice"):
        Aether(store, plugins=[store])
    Aether(":memory:", plugins=[Quiet(), Quiet()])


def test_equal_ones() -> None:
    with pytest.raises(DuplicatePlugin, match=rf"{NAME}Equal: .*equals another one .*eq=False.*Pass it once"):
        Aether(":memory:", plugins=[Equal(), Equal()])
    Aether(":memory:", plugins=[Apart(), Apart()])


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (Quiet, r"plugin Quiet: it is a class, not an object\. Pass Quiet\(…\)"),
        (SQLiteStore, r"plugin SQLiteStore: it is a class"),
        (object(), r"<object object.*no method of it is marked @hookimpl\. from aether_bg import hookimpl"),
        (lambda: None, r"no method of it is marked @hookimpl"),
        ("Tracing", r"plugin 'Tracing': no method of it is marked"),
        (None, r"plugin None: no method"),
        (attrs, r"plugin <module 'attrs'.*no method"),
    ],
    ids=["class", "store class", "object", "function", "text", "none", "module"],
)
def test_an_object_that_is_not_a_plugin(thing: Any, said: str) -> None:
    with pytest.raises(NotAPlugin, match=said):
        Aether(":memory:", plugins=[thing])


@pytest.mark.parametrize("thing", [SQLiteStore, object(), 7])
def test_an_object_that_is_not_a_store(thing: Any) -> None:
    with pytest.raises(NotAPlugin):
        Aether(thing)


@pytest.mark.parametrize("thing", [Scheduling, object(), 7])
def test_an_object_that_is_not_a_scheduler(thing: Any) -> None:
    with pytest.raises(NotAPlugin):
        Aether(":memory:", scheduler=thing)


def test_a_refused_plugin_leaves_no_file(path: Path) -> None:
    with pytest.raises(PluginError):
        Aether(path, plugins=[Misspelt()])
    assert list(path.parent.iterdir()) == []


def test_a_hook_may_have_another_name_and_a_policy_fewer_parameters() -> None:
    class Fewer:
        @hookimpl(specname="dispatch_decide")
        def think(self, failure: Failure) -> None: ...

        @hookimpl
        async def lifecycle_start(self) -> None: ...

    Aether(":memory:", plugins=[Fewer()])


# -- order -----------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Told:
    """Says what it was asked, in the order in which it was."""

    name: str
    told: list[str]

    @hookimpl
    def schedule_parse(self, text: str, timezone: str | None) -> None:
        self.told.append(f"parse {self.name}")

    @hookimpl
    def dispatch_runner(self, handler: HandlerInfo) -> None:
        self.told.append(f"runner {self.name}")

    @hookimpl
    def dispatch_stamp(self, job: JobInfo) -> Mapping[str, Any]:
        return {"last": self.name, self.name: True}

    @hookimpl
    def dispatch_wrap(self, ctx: JobContext) -> AbstractAsyncContextManager[object]:
        @asynccontextmanager
        async def around() -> AsyncIterator[None]:
            self.told.append(f"enter {self.name}")
            yield
            self.told.append(f"leave {self.name}")

        return around()

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel) -> None:
        self.told.append(f"start {self.name}")

    @hookimpl
    async def lifecycle_event(self, event: Event) -> None:
        if isinstance(event, Ended):
            self.told.append(f"ended {self.name}")


async def test_in_order_of_registration(make_app: Make) -> None:
    told: list[str] = []
    app = make_app(plugins=[Told("a", told), Told("b", told), Told("c", told)])

    @app.handler("Work")
    async def work() -> None:
        told.append("work")

    async with app:
        job = await app.wait(await app.enqueue("Work"), 10)
        with anyio.fail_after(10):
            while len([word for word in told if word.startswith("ended")]) < 3:
                await anyio.sleep(0.01)
    start = [word for word in told if word.startswith("start")]
    assert start == ["start a", "start b", "start c"]
    around = [word for word in told if word.split()[0] in ("enter", "work", "leave")]
    assert around == ["enter a", "enter b", "enter c", "work", "leave c", "leave b", "leave a"]
    assert [word for word in told if word.startswith("ended")] == ["ended a", "ended b", "ended c"]
    assert {word for word in told if word.startswith("parse")} == {f"parse {x}" for x in "abc"}
    assert job.metadata == {"last": "c", "a": True, "b": True, "c": True}


async def test_owners_start_before_the_rest(make_app: Make) -> None:
    told: list[str] = []

    class Scheduler:
        @hookimpl
        async def lifecycle_start(self, kernel: Kernel) -> None:
            told.append("start scheduler")

        @hookimpl
        async def schedule_run(self, kernel: Kernel) -> None:
            await anyio.sleep_forever()

    class Store(SQLiteStore):
        @hookimpl
        async def lifecycle_start(self, kernel: Kernel, stack: Any) -> None:
            await super().lifecycle_start(kernel, stack)
            told.append("start store")

    path = make_app().plugins.all[0].path
    async with Aether(plugins=[Told("user", told), Scheduler(), Store(path)], grace=1):
        assert told == ["start store", "start scheduler", "start user"]


@attrs.define(eq=False)
class Policy:
    name: str
    told: list[str]
    answer: bool

    @hookimpl
    def dispatch_runner(self, handler: HandlerInfo) -> Runner | None:
        self.told.append(f"asked {self.name}")

        async def run(ctx: JobContext, call: Any) -> Any:
            self.told.append(f"ran by {self.name}")
            return await call()

        return run if self.answer else None


async def test_the_last_policy_is_asked_first_and_an_answer_ends_the_asking(make_app: Make) -> None:
    told: list[str] = []
    app = make_app(plugins=[Policy("a", told, True), Policy("b", told, True), Policy("c", told, False)])

    @app.handler("Work")
    async def work() -> None: ...

    async with app:
        await app.wait(await app.enqueue("Work"), 10)
    assert told == ["asked c", "asked b", "ran by b"]


# -- dispatch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mine", [True, False])
async def test_a_users_runner_is_asked_before_the_default(make_app: Make, mine: bool) -> None:
    ran: list[str] = []

    class Mine:
        @hookimpl
        def dispatch_runner(self, handler: HandlerInfo) -> Runner | None:
            async def run(ctx: JobContext, call: Any) -> Any:
                ran.append(f"{handler.name} {handler.is_async} {ctx.attempt}")
                return await call()

            return run if mine and handler.name == "Work" else None

    app = make_app(plugins=[Mine()])

    @app.handler("Work")
    async def work(args: str) -> None:
        ran.append(args)

    @app.handler("Other")
    def other() -> None:
        ran.append("other")

    async with app:
        for job in (await app.enqueue("Work", payload="work"), await app.enqueue("Other")):
            assert (await app.wait(job, 10)).status is JobStatus.COMPLETED
    assert ran == (["Work True 1"] if mine else []) + ["work", "other"]


@attrs.define(eq=False)
class Tag:
    """A codec that leaves its mark, and refuses what has not got it."""

    tag: str

    @hookimpl
    def dispatch_codec(self) -> Tag:
        return self

    def encode(self, payload: Any, about: About) -> Any:
        return [self.tag, payload]

    def decode(self, stored: Any, about: About) -> Any:
        tag, payload = stored
        assert tag == self.tag, f"{tag} is not {self.tag}"
        return payload


def stored(path: Path) -> list[str]:
    with sqlite3.connect(path) as conn:
        found = [row[0] for row in conn.execute("SELECT payload FROM aether_jobs ORDER BY rowid")]
    conn.close()
    return found


async def test_a_codec_stands_between_the_store_and_everybody(make_app: Make, path: Path) -> None:
    app = make_app(plugins=[Tag("inner"), Tag("outer")])
    seen: list[Any] = []

    @app.handler("Work")
    async def work(args: dict[str, int], ctx: JobContext) -> None:
        seen.extend([args, ctx.job.payload])

    async with app:
        first = await app.enqueue("Work", "first", {"n": 1})
        async with app.unit_of_work() as uow:
            await app.enqueue("Work", "second", {"n": 2}, timedelta(hours=1))
            uow.run(lambda tx: tx.enqueue("Work", "third", {"n": 3}, schedule=timedelta(hours=1)))
        assert (await app.wait(first, 10)).payload == {"n": 1}
        assert seen == [{"n": 1}, {"n": 1}]
        assert [job.payload for job in await app.store.find()] == [{"n": 1}, {"n": 2}, {"n": 3}]
        again = await app.store.get_by_job_name("second")
        assert again is not None
        assert again.payload == {"n": 2}
        assert await app.enqueue("Work", "second", {"n": 2}, timedelta(hours=1), if_exists="keep") == again.id
        await app.enqueue("Work", "third", {"n": 4}, timedelta(hours=2), if_exists="replace")
    assert stored(path) == [f'["outer",["inner",{{"n":{n}}}]]' for n in (1, 2, 4)]


async def test_stamps_are_merged_into_metadata(make_app: Make) -> None:
    class Stamp:
        def __init__(self, **marks: Any) -> None:
            self.marks = marks

        @hookimpl
        def dispatch_stamp(self, job: JobInfo) -> Mapping[str, Any] | None:
            return self.marks if job.job_name != "bare" else None

    app = make_app(plugins=[Stamp(trace="a", tenant=1), Stamp(tenant=2, user="stamped")])
    app.handler("Work")(lambda: None)
    async with app:
        job = await app.store.get(await app.enqueue("Work", metadata={"user": "own", "OrderId": 1}))
        bare = await app.store.get(await app.enqueue("Work", "bare", metadata={"user": "own"}))
    assert job is not None
    assert job.metadata == {"trace": "a", "tenant": 2, "user": "own", "OrderId": 1}
    assert bare is not None
    assert bare.metadata == {"user": "own"}


async def test_a_stamp_that_fails_fails_the_enqueue_and_stores_nothing(make_app: Make) -> None:
    class Broken:
        @hookimpl
        def dispatch_stamp(self, job: JobInfo) -> Mapping[str, Any]:
            raise LookupError("no tenant")

    app = make_app(plugins=[Broken()])
    app.handler("Work")(lambda: None)
    async with app:
        with pytest.raises(LookupError, match="no tenant"):
            await app.enqueue("Work")
        assert await app.store.find() == []


async def test_decisions(make_app: Make, clock: FakeClock, step: Any) -> None:
    asked: list[tuple[int, Failure]] = []

    class Decides:
        @hookimpl
        def dispatch_decide(self, ctx: JobContext, failure: Failure) -> RetryAt | GiveUpNow | None:
            asked.append((ctx.attempt, failure))
            if ctx.job.handler_name == "Plain":
                return None
            return RetryAt(clock.now() + timedelta(hours=3)) if ctx.attempt == 1 else GiveUpNow("twice is enough")

    app = make_app(plugins=[Decides()], clock=clock, scheduler=step)

    @app.handler("Fails", retries=9)
    async def fails() -> None:
        raise ValueError("not today")

    @app.handler("Plain")
    async def plain() -> None:
        raise KeyError("plain")

    async with app:
        job_id = await app.enqueue("Fails")
        begun = clock.now()
        await app.drain()
        job = await app.store.get(job_id)
        assert job is not None
        assert (job.status, job.due_at, job.retry_count) == (JobStatus.SCHEDULED, begun + timedelta(hours=3), 1)
        clock.advance(hours=2, minutes=59)
        await app.drain()
        assert len(asked) == 1
        clock.advance(minutes=2)
        await app.drain()
        job = await app.store.get(job_id)
        assert job is not None
        assert job.status is JobStatus.FAILED
        assert "twice is enough" in (job.last_error or "")
        plain_id = await app.enqueue("Plain")
        await app.drain()
        left = await app.store.get(plain_id)
        assert left is not None
        assert left.status is JobStatus.FAILED
    assert [attempt for attempt, _ in asked] == [1, 2, 1]
    assert all(isinstance(failure, Raised) for _, failure in asked)


class Easter:
    """Adds the word "@easter"; "@lent" is its own, but wrong."""

    @hookimpl
    def schedule_parse(self, text: str, timezone: str | None) -> schedule.Schedule | None:
        if text == "@lent":
            raise InvalidSchedule(text, field=None, reason="nothing happens in Lent", example="@easter")
        return Sunday(text, timezone) if text == "@easter" else None


@attrs.frozen
class Sunday:
    text: str
    timezone: str | None
    recurring: bool = False

    def next(self, after: datetime, anchor: datetime | None = None) -> datetime | None:
        when = datetime(2100, 3, 28, tzinfo=UTC)
        return when if after < when else None

    def first(self, anchor: datetime) -> datetime | None:
        return self.next(anchor)

    def upcoming(self, n: int, after: datetime | None = None, anchor: datetime | None = None) -> list[Any]:
        return []

    def describe(self) -> str:
        return "at Easter"


async def test_a_word_of_ones_own(make_app: Make) -> None:
    assert isinstance(Sunday("@easter", None), schedule.Schedule)
    app = make_app(plugins=[Easter()])
    app.handler("Eggs", schedule="@easter")(lambda: None)
    async with app:
        declared = await app.store.get_by_job_name("Eggs")
        assert declared is not None
        assert (declared.schedule, declared.due_at) == ("@easter", datetime(2100, 3, 28, tzinfo=UTC))
        job_id = await app.enqueue("Eggs", "more", schedule="@daily")
        await app.update(job_id, "@easter")
        moved = await app.store.get(job_id)
        assert moved is not None
        assert moved.due_at == declared.due_at
        with pytest.raises(InvalidSchedule, match=r"'@lent': nothing happens in Lent\. For example: @easter"):
            await app.enqueue("Eggs", "less", schedule="@lent")
        assert await app.store.get_by_job_name("less") is None
    other = make_app()
    other.handler("Eggs")(lambda: None)
    async with other:  # the word has gone with its plugin
        with pytest.raises(InvalidSchedule, match="@easter"):
            await other.enqueue("Eggs", "new", schedule="@easter")
        assert await other.store.get_by_job_name("Eggs") is not None
