"""Decides whether an attempt runs at all, and what follows a failure (docs/protocol.md, C7, R1 and R2)."""

from __future__ import annotations

import random

import attrs

from aether_bg._kernel.attempt import Attempt
from aether_bg._kernel.shared import Shared
from aether_bg._rules import decisions, transitions
from aether_bg._rules.recurrence import Plan
from aether_bg._rules.results import Released, Result
from aether_bg.model import Change, Failure, Postpone, RetryAt
from aether_bg.schedule._model import utc


@attrs.define(eq=False)
class Decider:
    _shared: Shared

    def runs(self, attempt: Attempt, plan: Plan | None) -> bool:
        """Whether there is nothing to judge."""
        if plan is None or self._shared.identity.stopping or attempt.releasing or attempt.revoked:
            return False
        job = attempt.job
        known = job.handler_name in self._shared.handlers
        return known and not transitions.doubtful(job, plan, self._shared.clock.now())

    async def judge(self, attempt: Attempt, plan: Plan | None) -> Result | Change | None:
        """None: run it."""
        job = attempt.job
        if plan is None or job.handler_name not in self._shared.handlers:
            return Released(begun=False)  # another process can run it (docs/protocol.md, C7 and C8)
        change = None
        if transitions.doubtful(job, plan, self._shared.clock.now()) and not self._shared.identity.stopping:
            change = await self._shared.schedules.aside(transitions.misfired, job, plan, self._shared.clock.moment())
        stopped = self._shared.identity.stopping or attempt.releasing or attempt.revoked
        return Released(begun=False) if stopped else change

    def after(self, attempt: Attempt, failure: Failure) -> Result:
        """Another attempt or none: a plugin decides, else the handler's retries and backoff."""
        assert attempt.handler is not None  # it has begun
        try:
            decision = self._shared.calls.decide(attempt.context, failure)
            if isinstance(decision, RetryAt):
                decision = RetryAt(utc(decision.when))
            elif isinstance(decision, Postpone):
                decision = Postpone(utc(decision.until))
        except Exception as error:
            self._shared.problems.report("dispatch_decide", error)
            decision = None
        now, spread = self._shared.clock.now(), random.uniform(-1, 1)
        return decisions.after(failure, decision, attempt.job, attempt.handler.info, now, spread)
