"""Stores with one fault each: SQLite with one hook replaced. What the contract for stores must find."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import attrs

from aether_bg import JobInfo, JobRun, SQLiteStore, hookimpl
from aether_bg.errors import NameHeld, Stale, StoreRefused
from aether_bg.model import (
    Alive,
    Claim,
    Claimed,
    FailureGroup,
    Failures,
    Heartbeat,
    Insert,
    JobStatus,
    Purge,
    Query,
    Ran,
    Runs,
    Stats,
    Update,
    Write,
)
from aether_bg.protocols import Kernel

Hook = Callable[..., Awaitable[Any]]


class Faulty:
    """Passes every hook on to a SQLite store, but for those given: called with that store and the hook's argument."""

    def __init__(self, inner: SQLiteStore, **faults: Hook) -> None:
        self._inner, self._faults = inner, faults

    async def _do(self, hook: str, *given: Any) -> Any:
        if (fault := self._faults.get(hook)) is not None:
            return await fault(self._inner, *given)
        return await getattr(self._inner, hook)(*given)

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel, stack: AsyncExitStack) -> None:
        await self._do("lifecycle_start", kernel, stack)

    @hookimpl
    async def store_transact(self, writes: Sequence[Write]) -> Sequence[object]:
        return await self._do("store_transact", writes)  # type: ignore[no-any-return]

    @hookimpl
    async def store_claim(self, claim: Claim) -> Claimed:
        return await self._do("store_claim", claim)  # type: ignore[no-any-return]

    @hookimpl
    async def store_heartbeat(self, beat: Heartbeat) -> Alive:
        return await self._do("store_heartbeat", beat)  # type: ignore[no-any-return]

    @hookimpl
    async def store_find(self, query: Query) -> Sequence[JobInfo]:
        return await self._do("store_find", query)  # type: ignore[no-any-return]

    @hookimpl
    async def store_history(self, job_id: UUID, limit: int) -> Sequence[JobRun]:
        return await self._do("store_history", job_id, limit)  # type: ignore[no-any-return]

    @hookimpl
    async def store_runs(self, query: Runs) -> Sequence[Ran]:
        return await self._do("store_runs", query)  # type: ignore[no-any-return]

    @hookimpl
    async def store_failures(self, query: Failures) -> Sequence[FailureGroup]:
        return await self._do("store_failures", query)  # type: ignore[no-any-return]

    @hookimpl
    async def store_stats(self) -> Stats:
        return await self._do("store_stats")  # type: ignore[no-any-return]

    @hookimpl
    async def store_purge(self, purge: Purge) -> int:
        return await self._do("store_purge", purge)  # type: ignore[no-any-return]


# -- writing ---------------------------------------------------------------------------------------


async def no_token_guard(store: SQLiteStore, writes: Sequence[Write]) -> Any:
    try:
        return await store.store_transact(writes)
    except Stale as stale:
        if stale.current is None or len(writes) != 1 or not isinstance(writes[0], Update):
            raise
        now = stale.current
        change = attrs.evolve(writes[0].change, seq=now.seq, schedule_rev=now.schedule_rev, next_seq=now.seq + 1)
        return await store.store_transact([Update(change)])


async def no_revision_guard(store: SQLiteStore, writes: Sequence[Write]) -> Any:
    try:
        return await store.store_transact(writes)
    except Stale as stale:
        if not isinstance(writes[0], Update) or stale.current is None or stale.current.seq != writes[0].change.seq:
            raise
        change = attrs.evolve(writes[0].change, schedule_rev=stale.current.schedule_rev)
        return await store.store_transact([Update(change)])


async def half_a_batch(store: SQLiteStore, writes: Sequence[Write]) -> Any:
    return [(await store.store_transact([write]))[0] for write in writes]


async def names_are_no_matter(store: SQLiteStore, writes: Sequence[Write]) -> Any:
    try:
        return await store.store_transact(writes)
    except NameHeld:
        free = [Insert(attrs.evolve(w.job, holds_name=False)) if isinstance(w, Insert) else w for w in writes]
        return await store.store_transact(free)


async def no_history(store: SQLiteStore, writes: Sequence[Write]) -> Any:
    bare = [Update(attrs.evolve(w.change, runs=())) if isinstance(w, Update) else w for w in writes]
    return await store.store_transact(bare)


async def completes_twice(store: SQLiteStore, writes: Sequence[Write]) -> Any:
    try:
        return await store.store_transact(writes)
    except StoreRefused:
        return [None] * len(writes)


# -- reading ---------------------------------------------------------------------------------------


def seen_as(change: Callable[[JobInfo], dict[str, Any]]) -> Hook:
    async def find(store: SQLiteStore, query: Query) -> Any:
        return [attrs.evolve(job, **change(job)) for job in await store.store_find(query)]

    return find


def _whole_seconds(job: JobInfo) -> dict[str, Any]:
    return {"due_at": job.due_at and job.due_at.replace(microsecond=0)}


def _as_float(job: JobInfo) -> dict[str, Any]:
    return {"payload": float(job.payload)} if isinstance(job.payload, int) and job.payload > 2**53 else {}


async def one_page_for_ever(store: SQLiteStore, query: Query) -> Any:
    return await store.store_find(attrs.evolve(query, after=None))


async def oldest_first(store: SQLiteStore, query: Query) -> Any:
    return await store.store_find(attrs.evolve(query, order="created") if query.order == "newest" else query)


async def ended_or_not(store: SQLiteStore, query: Query) -> Any:
    return await store.store_find(attrs.evolve(query, order="newest") if query.order == "ended" else query)


async def prefix_anywhere(store: SQLiteStore, query: Query) -> Any:
    rows = await store.store_find(attrs.evolve(query, name_prefix=None, limit=1000))
    return [job for job in rows if (query.name_prefix or "").lower() in job.job_name.lower()][: query.limit]


async def pauses_are_no_matter(store: SQLiteStore, query: Query) -> Any:
    return await store.store_find(attrs.evolve(query, paused=False))


async def attempts_twice(store: SQLiteStore, query: Runs) -> Any:
    return [ran for ran in await store.store_runs(query) for _ in range(2)]


async def all_for_the_last(store: SQLiteStore, query: Runs) -> Any:
    return await store.store_runs(attrs.evolve(query, last=False))


async def never_whole(store: SQLiteStore, query: Runs) -> Any:
    return await store.store_runs(attrs.evolve(query, whole=False))


async def every_error_alone(store: SQLiteStore, query: Failures) -> Any:
    return [attrs.evolve(group, count=1) for group in await store.store_failures(query)]


# -- claiming --------------------------------------------------------------------------------------


def claims_twice() -> Hook:
    last: list[JobInfo] = []

    async def claim(store: SQLiteStore, claim: Claim) -> Any:
        claimed = await store.store_claim(claim)
        if not claimed.jobs and last:
            return Claimed(jobs=(last.pop(),))
        last[:] = claimed.jobs
        return claimed

    return claim


async def latest_first(store: SQLiteStore, claim: Claim) -> Any:
    due = await store.store_find(Query(due_before=claim.now, order="due"))
    taken: list[JobInfo] = []
    for job in [job for job in reversed(due) if job.handler_name in claim.handlers][: claim.limit]:
        taken += (await store.store_claim(attrs.evolve(claim, job_id=job.id, seq=job.seq))).jobs
    return Claimed(jobs=tuple(taken))


async def a_second_early(store: SQLiteStore, claim: Claim) -> Any:
    return await store.store_claim(attrs.evolve(claim, now=claim.now + timedelta(seconds=1)))


async def any_owner_will_do(store: SQLiteStore, claim: Claim) -> Any:
    about: dict[str, Any] = {"owner": claim.owner, "handlers": (), "now": claim.now, "interval": 5, "keep_for": 5}
    if (await store.store_heartbeat(Heartbeat(**about))).known:
        return await store.store_claim(claim)
    await store.store_heartbeat(Heartbeat(**about, join=True))
    claimed = await store.store_claim(claim)
    await store.store_heartbeat(Heartbeat(**about, leave=True))
    return claimed


async def all_suspects(store: SQLiteStore, claim: Claim) -> Any:
    jobs: list[JobInfo] = []
    while some := (await store.store_claim(claim)).jobs:
        jobs += some
    return Claimed(jobs=tuple(jobs))


async def never_due_again(store: SQLiteStore, claim: Claim) -> Any:
    return attrs.evolve(await store.store_claim(claim), next_due=None)


# -- owners and retention --------------------------------------------------------------------------


async def beats_only_when_asked(store: SQLiteStore, beat: Heartbeat) -> Any:
    return await store.store_heartbeat(attrs.evolve(beat, keep_for=0.0))


async def beats_are_instants(store: SQLiteStore, beat: Heartbeat) -> Any:
    alive = await store.store_heartbeat(beat)
    return attrs.evolve(alive, beats={owner: time.time_ns() for owner in alive.beats})


async def holds_nothing(store: SQLiteStore, beat: Heartbeat) -> Any:
    return attrs.evolve(await store.store_heartbeat(beat), running=())


async def forgets_the_stop(store: SQLiteStore, beat: Heartbeat) -> Any:
    return attrs.evolve(await store.store_heartbeat(beat), stopping=frozenset({beat.owner} if beat.stopping else ()))


async def waits_for_the_loop(store: SQLiteStore, beat: Heartbeat) -> Any:
    return await store.store_heartbeat(attrs.evolve(beat, stop_asked=bool))


async def reads_everything(store: SQLiteStore, claim: Claim) -> Any:
    return await store.store_claim(attrs.evolve(claim, unreadable=()))


async def knows_no_orphans(store: SQLiteStore, beat: Heartbeat) -> Any:
    return attrs.evolve(await store.store_heartbeat(beat), dead=())


async def another_id_each_time(store: SQLiteStore) -> Any:
    return attrs.evolve(await store.store_stats(), store_id=uuid4())


async def bounds_are_alternatives(store: SQLiteStore, purge: Purge) -> Any:
    return await store.store_purge(attrs.evolve(purge, before=None) if purge.keep is not None else purge)


async def purges_the_living(store: SQLiteStore, purge: Purge) -> Any:
    for job in await store.store_find(Query(status=(JobStatus.RUNNING,))):
        await store._open().write(
            lambda conn, id_=str(job.id): conn.execute("DELETE FROM aether_jobs WHERE id = ?", [id_]), 2
        )  # type: ignore[arg-type,misc]
    return await store.store_purge(purge)


async def wakes_no_other(store: SQLiteStore, kernel: Kernel, stack: AsyncExitStack) -> None:
    class Deaf:
        def __getattr__(self, name: str) -> Any:
            return (lambda: None) if name == "wake" else getattr(kernel, name)

    await store.lifecycle_start(cast(Kernel, Deaf()), stack)


def _made(**faults: Hook) -> Callable[[Path], Any]:
    return lambda place: Faulty(SQLiteStore(place / "jobs.db"), **faults)


STORES: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "no token guard": ("C1", "an_old_token_is_refused", _made(store_transact=no_token_guard)),
    "no revision guard": ("U1", "an_old_revision_is_refused", _made(store_transact=no_revision_guard)),
    "half a batch": ("store_transact", "all_or_nothing", _made(store_transact=half_a_batch)),
    "names are no matter": ("N1", "a_name_is_unique", _made(store_transact=names_are_no_matter)),
    "no history": ("store_transact", "history_is_written_whole", _made(store_transact=no_history)),
    "completes twice": ("C6", "an_occurrence_completes_once", _made(store_transact=completes_twice)),
    "forgets metadata": (
        "store_transact", "an_added_job_is_read_back", _made(store_find=seen_as(lambda job: {"extra_properties": {}})),
    ),
    "whole seconds": ("store_transact", "instants_are_read_back", _made(store_find=seen_as(_whole_seconds))),
    "integers as floats": ("store_transact", "payloads_are_read_back", _made(store_find=seen_as(_as_float))),
    "one page for ever": ("store_find", "page_by_page", _made(store_find=one_page_for_ever)),
    "oldest first": ("store_find", "newest_first", _made(store_find=oldest_first)),
    "ended or not": ("store_find", "last_ended_first", _made(store_find=ended_or_not)),
    "prefix anywhere": ("store_find", "names_that_begin_alike", _made(store_find=prefix_anywhere)),
    "pauses are no matter": ("store_find", "paused_and_recurring", _made(store_find=pauses_are_no_matter)),
    "attempts twice": ("store_runs", "attempts_of_all_jobs", _made(store_runs=attempts_twice)),
    "all for the last": ("store_runs", "last_attempts_of_many", _made(store_runs=all_for_the_last)),
    "never whole": ("store_runs", "last_attempts_of_many", _made(store_runs=never_whole)),
    "every error alone": ("store_failures", "failures_in_groups", _made(store_failures=every_error_alone)),
    "claims twice": ("C1", "each_job_once", lambda place: _made(store_claim=claims_twice())(place)),
    "latest first": ("store_claim", "the_earliest_first", _made(store_claim=latest_first)),
    "a second early": ("store_claim", "only_what_is_due", _made(store_claim=a_second_early)),
    "any owner will do": ("P4", "strangers_get_nothing", _made(store_claim=any_owner_will_do)),
    "all suspects at once": ("R3", "suspects_come_alone", _made(store_claim=all_suspects)),
    "never due again": ("store_claim", "when_the_next_is_due", _made(store_claim=never_due_again)),
    "beats only when asked": ("P3", "the_beat_goes_on_by_itself", _made(store_heartbeat=beats_only_when_asked)),
    "wakes no other process": ("store_transact", "others_are_woken", _made(lifecycle_start=wakes_no_other)),
    "wakes no other that rests": ("P12", "the_idle_are_woken", _made(lifecycle_start=wakes_no_other)),
    "beats are instants": ("P6", "beats_are_counted", _made(store_heartbeat=beats_are_instants)),
    "holds nothing": ("C5", "what_an_owner_holds", _made(store_heartbeat=holds_nothing)),
    "forgets the stop": ("S7", "a_stop_is_announced", _made(store_heartbeat=forgets_the_stop)),
    "waits for the loop": ("S7", "a_stop_is_announced_off_the_loop", _made(store_heartbeat=waits_for_the_loop)),
    "reads everything": ("C8", "unreadable_schedules_are_left", _made(store_claim=reads_everything)),
    "knows no orphans": ("P4", "orphans_are_reported", _made(store_heartbeat=knows_no_orphans)),
    "another id each time": ("D3", "one_store_id", _made(store_stats=another_id_each_time)),
    "bounds are alternatives": ("store_purge", "bounds_hold_together", _made(store_purge=bounds_are_alternatives)),
    "purges the living": ("N5", "purge_spares_the_living", _made(store_purge=purges_the_living)),
    "forgets at the end": ("store_transact", "opened_again", lambda place: SQLiteStore(":memory:")),
}  # fmt: skip
"""What is wrong: the number and check that must say so, and the store."""
