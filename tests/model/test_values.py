"""The values that cross the persistence hooks carry the rules that every store would otherwise repeat."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import attrs
import pytest

from aether_bg import JobInfo, JobStatus, RunOutcome
from aether_bg.model import Alive, Call, Claim, Heartbeat, Insert, Owner, Purge, Query, Stats, Update, begun_run
from aether_bg.testing.contracts.values import a_job, a_run, change

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def due(seconds: float, **fields: Any) -> JobInfo:
    return a_job(due_at=NOW + timedelta(seconds=seconds), **fields)


def a_claim(**fields: Any) -> Claim:
    return Claim(**{"owner": uuid4(), "now": NOW, "limit": 10, "handlers": ("Work",)} | fields)


@pytest.mark.parametrize("status", JobStatus)
@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize("seconds", [-1, 0, 1, None])
def test_job_is_claimable_when_scheduled_due_and_not_held_back(
    status: JobStatus, paused: bool, manual: bool, seconds: float | None
) -> None:
    due_at = None if seconds is None else NOW + timedelta(seconds=seconds)
    job = a_job(status=status, paused=paused, manual=manual, due_at=due_at)
    waiting = status is JobStatus.SCHEDULED and (manual or not paused)
    assert job.waiting == waiting
    assert job.claimable(NOW) == (waiting and seconds is not None and seconds <= 0)


def test_claim_chooses_the_earliest_due_up_to_its_limit() -> None:
    jobs = [due(-n) for n in (1, 5, 3)]
    assert a_claim(limit=2).choose(jobs) == [jobs[1], jobs[2]]
    assert a_claim().choose([due(1), due(-1, handler_name="Other"), due(-1, paused=True)]) == []


def test_claim_chooses_one_suspect_beside_the_others() -> None:
    jobs = [due(-9, crash_count=2), due(-8, crash_count=3), due(-7, crash_count=1)]
    assert a_claim().choose(jobs) == [jobs[0], jobs[2]]
    assert a_claim(suspect=False).choose(jobs) == [jobs[2]]


def test_exact_claim_wants_the_job_and_its_seq() -> None:
    job = due(-1, seq=7, crash_count=4, handler_name="Other")
    assert a_claim(job_id=job.id, seq=7).choose([job, due(-1)]) == [job]
    assert a_claim(job_id=job.id, seq=6).choose([job]) == []


def test_claim_takes_a_row_and_begins_its_history() -> None:
    claim, job = a_claim(), due(-1, seq=3, attempt=1, manual=True)
    taken = claim.take(job)
    assert (taken.status, taken.seq, taken.attempt, taken.manual) == (JobStatus.RUNNING, 4, 2, False)
    assert (taken.owner, taken.started_at, taken.modified_at) == (claim.owner, NOW, NOW)
    run = begun_run(taken)
    assert (run.job_id, run.token, run.attempt, run.outcome) == (job.id, 4, 2, None)


def test_change_guards_seq_and_revision_and_writes_everything_else() -> None:
    job = a_job(seq=2, schedule_rev=1)
    moved = change(job, status=JobStatus.FAILED, last_error="no", holds_name=False)
    assert moved.guards(job)
    for other in (None, attrs.evolve(job, seq=3), attrs.evolve(job, schedule_rev=2)):
        assert not moved.guards(other)
    after = moved.applied_to(job)
    assert (after.status, after.last_error, after.holds_name) == (JobStatus.FAILED, "no", False)
    assert (after.seq, after.schedule_rev) == (moved.next_seq, moved.next_rev)
    assert (after.id, after.payload, after.anchor) == (job.id, job.payload, job.anchor)


def test_query_pages_through_every_row_once_in_each_order() -> None:
    jobs = [due(n % 3) for n in range(7)]
    for order in ("created", "due"):
        seen: list[JobInfo] = []
        after: UUID | None = None
        while page := Query(order=order, limit=2, after=after).select(jobs):  # type: ignore[arg-type]
            seen, after = [*seen, *page], page[-1].id
        assert len({job.id for job in seen}) == len(seen) == 7
    assert Query(after=uuid4(), order="due").select(jobs) == []


def test_purge_selects_terminal_jobs_oldest_first() -> None:
    ended = [a_job(status=JobStatus.COMPLETED, due_at=None, handled_time=NOW - timedelta(days=n)) for n in range(4)]
    live = [due(-1), a_job(status=JobStatus.RUNNING)]
    assert Purge(limit=2).select([*ended, *live]) == [ended[3], ended[2]]
    assert Purge(status=JobStatus.COMPLETED, keep=3).select(ended) == [ended[3]]
    assert Purge(before=NOW - timedelta(days=2)).select(ended) == [ended[3]]
    assert Purge(status=JobStatus.FAILED).select(ended) == []


def test_claim_answers_when_the_next_row_is_due() -> None:
    claim, first, second = a_claim(limit=1), due(-2), due(-1)
    taken = [claim.take(job) for job in claim.choose([first, second])]
    assert claim.answer(taken, [*taken, second]).next_due == second.due_at
    suspects = [claim.take(due(-2, crash_count=2)), due(-1, crash_count=2)]
    assert claim.answer(suspects[:1], suspects).next_due is None  # the other one waits until this one has ended


def test_alive_lists_owners_held_jobs_and_due_handlers() -> None:
    me, other, gone = uuid4(), uuid4(), uuid4()
    held = {owner: due(-1, status=JobStatus.RUNNING, owner=owner, seq=4) for owner in (me, gone)}
    beat = Heartbeat(owner=me, handlers=("Work",), now=NOW, interval=5, keep_for=60)
    owners = {me: Owner(3, ("Work",)), other: Owner(7, ("Mail",), stopping=True)}
    alive = Alive.of(beat, uuid4(), owners, [*held.values(), due(-1, handler_name="Due"), due(1)])
    assert (alive.known, alive.beats, alive.dead) == (True, {me: 3, other: 7}, (gone,))
    assert (alive.stopping, alive.advertised, alive.due) == ({other}, {"Work"}, {"Due"})
    assert alive.running == ((held[me].id, 4),)
    assert (alive.size, alive.now) == (0, None)
    assert not Alive.of(attrs.evolve(beat, owner=uuid4()), uuid4(), owners, []).known


def test_stats_count_by_status_and_handler() -> None:
    jobs = [due(-1), due(1), due(-1, paused=True), a_job(status=JobStatus.FAILED, paused=True, handler_name="Mail")]
    stats = Stats.of(uuid4(), jobs, NOW, owners=1, runs=2)
    assert (stats.scheduled, stats.failed, stats.paused, stats.due, stats.oldest_due) == (3, 1, 1, 1, jobs[0].due_at)
    assert stats.by_handler == {"Work": {"scheduled": 3}, "Mail": {"failed": 1}}


def test_an_occurrence_completed_under_another_token_is_a_repeat() -> None:
    done = a_run(a_job(), token=1, outcome=RunOutcome.COMPLETED, occurrence=NOW)
    assert attrs.evolve(done, token=2).repeats(done)
    assert not done.repeats(done)
    assert not attrs.evolve(done, token=2, outcome=RunOutcome.FAILED).repeats(done)
    assert not attrs.evolve(done, token=2, occurrence=NOW + timedelta(1)).repeats(done)


@pytest.mark.parametrize("status", JobStatus)
def test_a_write_wakes_others_when_it_leaves_a_scheduled_row(status: JobStatus) -> None:
    job = a_job(status=status)
    wakes = status is JobStatus.SCHEDULED
    assert (Insert(job).wakes, Update(change(job)).wakes) == (wakes, wakes)
    assert Call(lambda tx: None).wakes
