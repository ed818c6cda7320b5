"""Many jobs in one commit. docs/protocol.md, N8."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import anyio
import attrs
import pytest

from aether_bg import (
    Aether,
    AetherError,
    InvalidName,
    InvalidOption,
    InvalidPayload,
    InvalidSchedule,
    JobConflict,
    JobStatus,
    JobType,
    NewJob,
    NotStarted,
    UnknownHandler,
    hookimpl,
)
from aether_bg.model import Altered, Enqueued, Event
from aether_bg.testing import sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
FAR = timedelta(days=1)


@attrs.define
class Mail:
    to: str


@pytest.fixture
def seen() -> list[str]:
    return []


@pytest.fixture
def mailing(app: Aether, seen: list[str]) -> Aether:
    return with_mail(app, seen)


def with_mail(app: Aether, seen: list[str]) -> Aether:
    @app.handler("Mail")
    async def mail(args: Mail) -> None:
        seen.append(args.to)

    @app.handler("Bare")
    async def bare() -> None: ...

    return app


async def stored(app: Aether) -> list[str]:
    return [job.job_name for job in await app.store.find()]


async def test_all_ways_to_say_a_job_run_with_ids_in_order(mailing: Aether, seen: list[str]) -> None:
    items = [
        NewJob("Mail", payload=Mail("a")),
        {"handler": "Mail", "payload": {"to": "b"}, "job_name": "b"},
        NewJob(JobType("Mail", Mail), "c", Mail("c"), "@once", {"tenant": 7}),
        {"handler": "Mail", "payload": Mail("d"), "schedule": timedelta(0)},
    ]
    async with mailing as app:
        ids = await app.enqueue_many(items)
        jobs = [await app.wait(job, 10) for job in ids]
    assert sorted(seen) == ["a", "b", "c", "d"]
    assert [job.payload["to"] for job in jobs] == ["a", "b", "c", "d"]
    assert ids == sorted(ids)
    assert jobs[2].metadata == {"tenant": 7}


async def test_none_is_no_job_and_any_iterable_will_do(mailing: Aether) -> None:
    def some() -> Iterator[NewJob]:
        yield NewJob("Bare")

    async with mailing as app:
        assert await app.enqueue_many([]) == []
        assert len(await app.enqueue_many(some())) == 1
        assert len(await app.enqueue_many((NewJob("Bare"),))) == 1


BAD: list[tuple[Any, type[AetherError], str]] = [
    (NewJob("Mail", payload={"to": 3}), InvalidPayload, "$.to"),
    (NewJob("Mail"), InvalidPayload, "missing"),
    (NewJob("Nope"), UnknownHandler, "'Nope'"),
    (NewJob("Bare", "a/b"), InvalidName, "'/'"),
    (NewJob("Bare", schedule="every now and then"), InvalidSchedule, "every now"),
    (NewJob("Bare", schedule="0 0 30 2 *"), InvalidSchedule, ""),
    (NewJob("Bare", if_exists="maybe"), InvalidOption, "if_exists"),  # type: ignore[arg-type]
    ({"payload": 1}, InvalidOption, "no handler"),
    ({"handler": "Bare", "name": "x"}, InvalidOption, "job_name="),
    ({"handler": "Bare", 3: "x"}, InvalidOption, "no such option"),
    ("Bare", InvalidOption, "NewJob"),
    (("Bare", "x"), InvalidOption, "NewJob"),
    (None, InvalidOption, "NewJob"),
]


async def test_one_bad_item_is_named_and_nothing_is_stored(mailing: Aether) -> None:
    later = NewJob("Bare", schedule=FAR)
    async with mailing as app:
        for bad, kind, says in BAD:
            with pytest.raises(kind) as caught:
                await app.enqueue_many([later, later, bad, NewJob("Bare")])
            assert str(caught.value).startswith("items[2]: ")
            assert says in str(caught.value)
            assert await stored(app) == [], bad


async def test_what_is_no_list_of_jobs_is_refused(mailing: Aether) -> None:
    wrong: list[Any] = ["Mail", b"", {"handler": "Mail"}, None, 3, NewJob("Bare")]
    async with mailing as app:
        for items in wrong:
            with pytest.raises(InvalidOption, match=r"items must be a list of NewJob"):
                await app.enqueue_many(items)


async def test_an_endless_iterable_ends(mailing: Aether) -> None:
    def endless() -> Iterator[NewJob]:
        job = NewJob("Bare")
        while True:
            yield job

    async with mailing as app:
        with pytest.raises(InvalidOption, match="at most 100000 items"):
            await app.enqueue_many(endless())


def test_an_unknown_argument_is_refused_where_it_is_written() -> None:
    with pytest.raises(InvalidOption, match="job_name="):
        NewJob("Bare", name="x")  # type: ignore[call-overload]


# -- names: as one enqueue after the other -------------------------------------------------------


async def test_a_held_name_follows_the_if_exists_of_its_item(mailing: Aether) -> None:
    async with mailing as app:
        kept = await app.enqueue("Bare", "kept", schedule=FAR)
        replaced = await app.enqueue("Mail", "replaced", Mail("old"), schedule=FAR)
        ids = await app.enqueue_many(
            [
                NewJob("Mail", "kept", Mail("x"), if_exists="keep"),
                NewJob("Bare", "kept", schedule=FAR),  # identical
                NewJob("Mail", "replaced", Mail("new"), schedule=FAR, if_exists="replace"),
                NewJob("Mail", "fresh", Mail("fresh"), schedule=FAR),
            ]
        )
        assert ids[:3] == [kept, kept, replaced]
        row = await app.store.get(replaced)
        assert row is not None
        assert row.payload == {"to": "new"}
        with pytest.raises(JobConflict, match=r"items\[1\]: job name 'kept'") as caught:
            await app.enqueue_many([NewJob("Bare", "a", schedule=FAR), NewJob("Mail", "kept", Mail("x"))])
        assert caught.value.existing is not None
        assert caught.value.existing.id == kept
        assert sorted(await stored(app)) == ["fresh", "kept", "replaced"]


async def test_two_items_of_one_name_are_as_two_enqueues(mailing: Aether) -> None:
    async with mailing as app:
        same = await app.enqueue_many([NewJob("Bare", "same", schedule=FAR), NewJob("Bare", "same", schedule=FAR)])
        assert same[0] == same[1]
        with pytest.raises(JobConflict, match=r"items\[2\].*differs in payload"):
            await app.enqueue_many(
                [NewJob("Bare"), NewJob("Mail", "m", Mail("a"), FAR), NewJob("Mail", "m", Mail("b"), FAR)]
            )
        assert await stored(app) == ["same"]
        first, second, third = await app.enqueue_many(
            [
                NewJob("Mail", "m", Mail("a"), FAR),
                NewJob("Mail", "m", Mail("b"), FAR, if_exists="replace"),
                NewJob("Mail", "m", Mail("c"), "@daily", if_exists="replace"),
            ]
        )
        assert first == second == third
        row = await app.store.get(first)
        assert row is not None
        assert (row.payload, row.schedule) == ({"to": "c"}, "@daily")


async def test_a_terminal_job_gives_its_name_to_an_item(mailing: Aether, seen: list[str]) -> None:
    async with mailing as app:
        old = await app.enqueue("Mail", "m", Mail("a"))
        await app.wait(old, 10)
        (new, again) = await app.enqueue_many(
            [
                NewJob("Mail", "m", Mail("b"), if_exists="replace"),
                NewJob("Mail", "m", Mail("b")),
            ]
        )
        assert new == again != old
        await app.wait(new, 10)
    assert seen == ["a", "b"]


async def test_the_name_is_asked_for_before_the_clock(mailing: Aether) -> None:
    """docs/protocol.md, N0."""
    async with mailing as app:
        soon = anyio.current_time() + 1.2
        from datetime import UTC, datetime

        at = datetime.now(UTC) + timedelta(seconds=1)
        job = NewJob("Bare", "once", schedule=at)
        (first,) = await app.enqueue_many([job])
        await anyio.sleep(max(soon - anyio.current_time(), 0))
        assert await app.enqueue_many([job, NewJob("Bare", "other", schedule=FAR)]) == [
            first, (await app.store.find(job_name="other"))[0].id,
        ]  # fmt: skip


async def test_names_taken_in_between_are_looked_up_again(make_app: Callable[..., Aether], seen: list[str]) -> None:
    """Two processes enqueue the same batch at once: one id per name."""
    one, other = with_mail(make_app(), seen), with_mail(make_app(), seen)
    items = [NewJob("Bare", f"job-{n}", schedule=FAR) for n in range(50)]
    found: list[Any] = []

    async def put(app: Aether) -> None:
        found.append(await app.enqueue_many(items))

    async with one, other, anyio.create_task_group() as group:
        for app in (one, other, one):
            group.start_soon(put, app)
    assert found[0] == found[1] == found[2]


# -- where it may be called ----------------------------------------------------------------------


async def test_it_joins_a_unit_of_work(mailing: Aether) -> None:
    async with mailing as app:

        async def fail() -> None:
            async with app.unit_of_work():
                await app.enqueue_many([NewJob("Bare", schedule=FAR)])
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert await stored(app) == []
        held = await app.enqueue("Bare", "held", schedule=FAR)
        async with app.unit_of_work():
            single = await app.enqueue("Bare", "single", schedule=FAR)
            items = [NewJob("Bare", name, schedule=FAR) for name in ("held", "single", "new", "new")]
            ids = await app.enqueue_many(items)
            assert ids[:2] == [held, single]
            assert ids[2] == ids[3]
            with pytest.raises(JobConflict, match=r"items\[1\]"):
                await app.enqueue_many([NewJob("Bare", "x", schedule=FAR), NewJob("Mail", "held", Mail("a"))])
            assert len(await stored(app)) == 1
        assert await stored(app) == ["held", "single", "new"]


async def test_from_clients_and_threads(mailing: Aether) -> None:
    async with mailing.client() as client:
        ids = await client.enqueue_many([NewJob("Bare"), {"handler": "Bare"}])
    async with mailing as app:
        for id_ in ids:
            assert (await app.wait(id_, 10)).status is JobStatus.COMPLETED
        more = await anyio.to_thread.run_sync(app.sync.enqueue_many, [NewJob("Bare")])
        assert (await app.wait(more[0], 10)).status is JobStatus.COMPLETED
    with pytest.raises(NotStarted):
        await mailing.enqueue_many([])


def test_blocking(app: Aether, seen: list[str]) -> None:
    with with_mail(app, seen).blocking() as jobs:
        ids = jobs.enqueue_many([NewJob("Mail", payload=Mail("a"))])
        assert jobs.wait(ids[0], 10).status is JobStatus.COMPLETED
    with app.blocking(client=True) as client:
        assert len(client.enqueue_many([{"handler": "Bare"}])) == 1


async def test_in_a_sandbox_and_in_memory(mailing: Aether, seen: list[str]) -> None:
    async with sandbox(mailing) as jobs:
        await jobs.enqueue_many([NewJob("Mail", payload=Mail("a")), NewJob("Mail", "b", Mail("b"))])
        await jobs.assert_enqueued("Mail", payload={"to": "b"})
        await jobs.drain()
    assert sorted(seen) == ["a", "b"]


async def test_observers_see_each_of_them(make_app: Callable[..., Aether], seen: list[str]) -> None:
    events: list[Event] = []

    class Seen:
        @hookimpl
        async def lifecycle_event(self, event: Event) -> None:
            events.append(event)

    app = with_mail(make_app(plugins=[Seen()]), seen)
    async with app:
        await app.enqueue("Mail", "m", Mail("a"), schedule=FAR)
        await app.enqueue_many(
            [
                NewJob("Bare", "b", schedule=FAR),
                NewJob("Mail", "m", Mail("b"), FAR, if_exists="replace"),
            ]
        )
    assert [(type(e), e.job.job_name) for e in events if isinstance(e, Enqueued | Altered)] == [
        (Enqueued, "m"), (Enqueued, "b"), (Altered, "m"),
    ]  # fmt: skip


async def test_thousands_in_one_commit(mailing: Aether) -> None:
    async with mailing as app:
        items = [NewJob("Mail", f"mail-{n}", Mail(str(n)), FAR) for n in range(3000)]
        ids = await app.enqueue_many(items)
        assert len(set(ids)) == 3000
        assert (await app.store.stats()).scheduled == 3000
        assert await app.enqueue_many(items[:300]) == ids[:300]
