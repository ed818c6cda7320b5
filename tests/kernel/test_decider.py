"""Whether an attempt runs, and what follows from its failure: the decider alone, without a store being asked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import attrs
import pytest
from kernel.conftest import World

from aether_bg import Backoff, hookimpl
from aether_bg._kernel.attempt import Attempt
from aether_bg._kernel.decider import Decider
from aether_bg._rules.recurrence import Plan
from aether_bg._rules.results import Failed, Released
from aether_bg.model import Change, GiveUpNow, JobContext, JobInfo, JobStatus, Raised, RetryAt, RunOutcome, TimedOut

pytestmark = pytest.mark.anyio

BOOM = Raised(ValueError("boom"))


def claimed(world: World, late: float = 0, **fields: Any) -> Attempt:
    """An attempt as the claimer starts it, `late` seconds after its due instant."""
    job = world.job(**fields)
    world.clock.advance(seconds=late)
    job = attrs.evolve(job, status=JobStatus.RUNNING, attempt=job.attempt + 1, seq=job.seq + 1)
    return Attempt(job, JobContext(job))


def begun(world: World) -> Attempt:
    attempt = claimed(world)
    attempt.handler = world.shared.handlers.compiled("Work")
    return attempt


def plan_of(world: World, job: JobInfo) -> Plan:
    return world.shared.schedules.plan(job)


async def test_an_attempt_in_time_runs(make_world: Callable[..., World]) -> None:
    world = make_world()
    attempt = claimed(world)
    assert await Decider(world.shared).judge(attempt, plan_of(world, attempt.job)) is None


async def test_what_this_process_cannot_run_is_put_back(make_world: Callable[..., World]) -> None:
    world = make_world()
    attempt, decider = claimed(world), Decider(world.shared)
    assert await decider.judge(attempt, None) == Released(begun=False), "its schedule cannot be read (C8)"
    foreign = claimed(world, handler_name="Elsewhere")
    assert await decider.judge(foreign, plan_of(world, foreign.job)) == Released(begun=False), "C7"


async def test_one_that_expired_ends_without_running(make_world: Callable[..., World]) -> None:
    world = make_world()
    attempt = claimed(world, late=11, misfire="skip")
    change = await Decider(world.shared).judge(attempt, plan_of(world, attempt.job))
    assert isinstance(change, Change)
    assert (change.status, change.last_error) == (JobStatus.CANCELLED, "expired")


@pytest.mark.parametrize("late", [0, 11])
@pytest.mark.parametrize("how", ["stopping", "revoked", "releasing"])
async def test_nothing_begins_once_the_stop_or_a_delete_has_come(
    make_world: Callable[..., World], how: str, late: float
) -> None:
    world = make_world()
    attempt = claimed(world, late=late, misfire="skip")
    setattr(world.shared.identity if how == "stopping" else attempt, how, True)
    assert await Decider(world.shared).judge(attempt, plan_of(world, attempt.job)) == Released(begun=False)


async def test_without_retries_a_failure_is_the_last(make_world: Callable[..., World]) -> None:
    world = make_world()
    decider, attempt = Decider(world.shared), begun(world)
    failed = decider.after(attempt, BOOM)
    assert isinstance(failed, Failed)
    assert failed.retry_at is None
    assert "ValueError: boom" in failed.error
    late = decider.after(attempt, TimedOut(3))
    assert isinstance(late, Failed)
    assert late.outcome is RunOutcome.TIMED_OUT


async def test_a_retry_waits_for_the_backoff(make_world: Callable[..., World]) -> None:
    world = make_world(retries=2, backoff=Backoff(first=60, jitter=0))
    failed = Decider(world.shared).after(begun(world), BOOM)
    assert isinstance(failed, Failed)
    assert failed.retry_at == world.clock.now() + timedelta(seconds=60)


async def test_a_plugin_decides_first(make_world: Callable[..., World]) -> None:
    answers: list[Any] = []

    class Decides:
        @hookimpl
        def dispatch_decide(self, ctx: JobContext, failure: Any) -> Any:
            answer = answers.pop(0)
            if isinstance(answer, BaseException):
                raise answer
            return answer

    world = make_world(retries=1, backoff=Backoff(first=60, jitter=0), plugins=[Decides()])
    decider, when = Decider(world.shared), world.clock.now() + timedelta(hours=1)
    answers += [
        RetryAt(when),
        GiveUpNow("enough"),
        None,
        RuntimeError("broken"),
        SystemExit(1),
        RetryAt(when.replace(tzinfo=None)),
    ]
    results = [decider.after(begun(world), BOOM) for _ in range(6)]
    assert all(isinstance(result, Failed) for result in results)
    minute = world.clock.now() + timedelta(seconds=60)
    assert [result.retry_at for result in results if isinstance(result, Failed)] == [
        when, None, minute, minute, minute, minute,
    ]  # fmt: skip
    assert "dispatch_decide" in world.shared.problems.current, "what is wrong with a plugin is reported"
