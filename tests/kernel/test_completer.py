"""Results on their way to the store: the completer alone, with attempts that nothing runs."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import attrs
import pytest
from kernel.conftest import World, eventually
from kernel.parts import claimed

from aether_bg import StoreBusy
from aether_bg._kernel.attempt import Attempt
from aether_bg._kernel.completer import Completer
from aether_bg._kernel.decider import Decider
from aether_bg._kernel.notes import Notes
from aether_bg._kernel.timings import Timings
from aether_bg._rules.changes import Moment
from aether_bg._rules.commands import cancel, pause
from aether_bg._rules.results import Completed, Failed, Result, Snoozed
from aether_bg.errors import StoreRefused, StoreUnsure
from aether_bg.model import Change, Ended, JobInfo, JobStatus, RunOutcome, Update

pytestmark = pytest.mark.anyio

QUICK = Timings(backoff=(0.001, 0.01))


@attrs.define
class Desk:
    world: World
    completer: Completer

    async def claimed(self, **fields: Any) -> Attempt:
        return await claimed(self.world, **fields)

    async def record(self, attempt: Attempt, result: Result | Change, job: JobInfo | None = None) -> JobInfo:
        """The row, once the completer is done with it."""
        attempt.job = job = job or attempt.job
        attempt.plan = self.world.shared.schedules.plan_or_none(job)
        self.completer.record(attempt, result)
        self.world.shared.slots.end(attempt)
        await eventually(lambda: not self.world.shared.slots.busy)
        return await self.world.row(job)

    async def outcomes(self, job: JobInfo) -> list[RunOutcome | None]:
        return [run.outcome for run in (await self.world.shared.calls.history(job.id, 10))[::-1]]


@pytest.fixture
async def desk(make_world: Callable[..., World], running: Any) -> AsyncIterator[Desk]:
    world = make_world(timings=QUICK)
    await world.join()
    notes = Notes(shared=world.shared, on_loop=lambda fn: fn(), across=world.across, limit=1000)
    completer = Completer(shared=world.shared, decider=Decider(world.shared), journal=world.journal, notes=notes)
    async with running(world.batcher.run, world.shared.observers.run):
        yield Desk(world, completer)


async def test_result_is_recorded_and_announced(desk: Desk) -> None:
    attempt = await desk.claimed()
    ended = desk.world.journal.ended(attempt.job.id)
    row = await desk.record(attempt, Completed())
    assert (row.status, row.owner) == (JobStatus.COMPLETED, None)
    assert ended.is_set()
    await eventually(lambda: any(isinstance(event, Ended) for event in desk.world.events))
    assert await desk.outcomes(row) == [RunOutcome.COMPLETED]


async def test_a_change_is_written_as_it_is(desk: Desk) -> None:
    attempt = await desk.claimed()
    change = cancel(attempt.job, Moment(desk.world.clock.now(), "tests"))
    assert change is not None
    assert (await desk.record(attempt, change)).status is JobStatus.CANCELLED


async def test_a_snooze_keeps_the_occurrence(desk: Desk) -> None:
    attempt, until = await desk.claimed(), desk.world.clock.now() + timedelta(hours=1)
    row = await desk.record(attempt, Snoozed(until))
    assert (row.status, row.due_at, row.occurrence) == (JobStatus.SCHEDULED, until, attempt.job.occurrence)
    assert await desk.outcomes(row) == [RunOutcome.SNOOZED]


async def test_the_last_failure_is_an_error_and_one_with_retries_a_warning(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    again = desk.world.clock.now() + timedelta(minutes=1)
    assert (await desk.record(await desk.claimed(name="one"), Failed("boom"))).status is JobStatus.FAILED
    row = await desk.record(await desk.claimed(name="other"), Failed("boom", retry_at=again))
    assert (row.due_at, row.retry_count) == (again, 1)
    levels = [record.levelno for record in caplog.records if "failed" in record.message]
    assert levels == [logging.ERROR, logging.WARNING]


@pytest.mark.parametrize("times", [1, 4])
async def test_trouble_of_the_store_is_waited_out_with_the_same_token(desk: Desk, times: int) -> None:
    attempt = await desk.claimed()
    desk.world.store.trouble += [StoreBusy("a file", "it is busy")] * times
    row = await desk.record(attempt, Completed())
    assert row.status is JobStatus.COMPLETED
    tried = [write.change for batch in desk.world.store.batches for write in batch if isinstance(write, Update)]
    assert [change.seq for change in tried] == [attempt.job.seq] * (times + 1)
    assert "recording outcomes" in desk.world.shared.problems.current


@pytest.mark.parametrize("happened", [True, False])
async def test_a_lost_answer_is_asked_for_again(desk: Desk, happened: bool) -> None:
    attempt = await desk.claimed()
    unsure = StoreUnsure("a commit", "its answer was lost")
    (desk.world.store.lost if happened else desk.world.store.trouble).append(unsure)
    assert (await desk.record(attempt, Completed())).status is JobStatus.COMPLETED
    await eventually(lambda: sum(isinstance(event, Ended) for event in desk.world.events) == 1)
    assert await desk.outcomes(attempt.job) == [RunOutcome.COMPLETED]


async def test_the_stop_leaves_the_row_to_the_next_start(desk: Desk) -> None:
    attempt = await desk.claimed()
    desk.world.shared.identity.stopping = True
    desk.world.store.trouble.append(StoreBusy("a file", "it is busy"))
    assert (await desk.record(attempt, Completed())).status is JobStatus.RUNNING


async def test_a_lost_token_records_nothing(desk: Desk) -> None:
    """Deleted while it ran (docs/protocol.md, U2)."""
    attempt = await desk.claimed()
    change = cancel(attempt.job, Moment(desk.world.clock.now(), "tests"))
    assert change is not None
    await desk.world.journal.update(change, attempt.job, "delete")
    row = await desk.record(attempt, Completed())
    assert row.status is JobStatus.CANCELLED
    assert await desk.outcomes(row) == [RunOutcome.CANCELLED]


async def test_an_update_meanwhile_has_the_outcome_computed_again(desk: Desk) -> None:
    """The revision has moved, the token has not (docs/protocol.md, U1)."""
    attempt = await desk.claimed()
    paused = pause(attempt.job, Moment(desk.world.clock.now(), "tests"))
    assert paused is not None
    await desk.world.journal.update(paused, attempt.job, "pause")
    row = await desk.record(attempt, Completed())
    assert (row.status, row.paused) == (JobStatus.COMPLETED, True)


async def test_an_update_meanwhile_has_the_claim_judged_again(desk: Desk) -> None:
    """It was too late to begin, and still is; the row that says so is the changed one."""
    attempt = await desk.claimed(misfire="skip", due_at=desk.world.clock.now())
    desk.world.clock.advance(seconds=30)
    change = await Decider(desk.world.shared).judge(attempt, desk.world.shared.schedules.plan(attempt.job))
    assert isinstance(change, Change)
    paused = pause(attempt.job, Moment(desk.world.clock.now(), "tests"))
    assert paused is not None
    await desk.world.journal.update(paused, attempt.job, "pause")
    row = await desk.record(attempt, change)
    assert (row.status, row.last_error, row.paused) == (JobStatus.CANCELLED, "expired", True)


async def test_a_completed_occurrence_is_not_completed_again(desk: Desk) -> None:
    """Under another token (docs/protocol.md, C6): the second is a duplicate."""
    attempt = await desk.claimed()
    await desk.record(attempt, Completed())
    again = await desk.claimed(name="again")
    refused = StoreRefused("job", "its occurrence has completed already")
    desk.world.store.trouble.append(refused)
    history = desk.world.shared.calls.history

    async def of_the_first(job_id: Any, limit: int) -> Any:
        runs = await history(attempt.job.id, limit)
        return [attrs.evolve(run, occurrence=again.job.occurrence) for run in runs]

    desk.world.shared.calls.history = of_the_first  # type: ignore[method-assign]
    row = await desk.record(again, Completed())
    desk.world.shared.calls.history = history  # type: ignore[method-assign]
    assert row.status is JobStatus.COMPLETED
    assert await desk.outcomes(again.job) == [RunOutcome.DUPLICATE]


async def test_a_refused_outcome_is_a_failure(desk: Desk) -> None:
    attempt = await desk.claimed()
    desk.world.store.trouble.append(ValueError("not even SQL"))
    row = await desk.record(attempt, Completed())
    assert row.status is JobStatus.FAILED
    assert "not even SQL" in str(row.last_error)


@pytest.mark.parametrize("schedule", ["@every 1s", "*/7 * * * * *"])
async def test_a_run_that_took_long_is_finished_aside(desk: Desk, schedule: str) -> None:
    """Occurrences that have passed are counted off the loop (docs/protocol.md, R7)."""
    attempt = await desk.claimed(expression_value=schedule)
    desk.world.clock.advance(days=3)
    row = await desk.record(attempt, Completed())
    assert (row.status, row.occurrences) == (JobStatus.SCHEDULED, 1)
    assert row.due_at is not None
    assert abs(row.due_at - desk.world.clock.now()) < timedelta(seconds=8)


async def test_a_schedule_that_cannot_be_read_puts_the_job_back(desk: Desk) -> None:
    """Its unit of work must not be committed either (docs/protocol.md, C8)."""
    attempt = await desk.claimed()
    job = attrs.evolve(attempt.job, expression_value="@fullmoon")
    row = await desk.record(attempt, Completed(), job)
    assert (row.status, row.attempt) == (JobStatus.SCHEDULED, 1)
    assert await desk.outcomes(row) == [RunOutcome.RELEASED]
