"""Decides whether an attempt runs at all, and what follows a failure (docs/protocol.md, C7, R1 and R2)."""

from __future__ import annotations

import random

import attrs

from aether_bg._kernel.attempt import Attempt
from aether_bg._kernel.shared import Shared
from aether_bg._rules import decisions, transitions
from aether_bg._rules.recurrence import Plan
from aether_bg._rules.results import Released, Result
from aether_bg.model import Change, Failure


@attrs.define(eq=False)
class Decider:
    _shared: Shared

    def runs(self, attempt: Attempt, plan: Plan | None) -> bool:
        """Whether there is nothing to judge."""
        if plan is None or self._stopped(attempt) or attempt.job.handler_name not in self._shared.handlers:
            return False
        return not transitions.doubtful(attempt.job, plan, self._shared.clock.now())

    async def judge(self, attempt: Attempt, plan: Plan | None) -> Result | Change | None:
        """None: run it. Released: another process can run it (docs/protocol.md, C7 and C8), or nothing begins here."""
        job = attempt.job
        if plan is None or self._stopped(attempt) or job.handler_name not in self._shared.handlers:
            return Released(begun=False)
        change = await self._shared.schedules.aside(transitions.misfired, job, plan, self._shared.clock.moment())
        return Released(begun=False) if self._stopped(attempt) else change

    def _stopped(self, attempt: Attempt) -> bool:
        return self._shared.identity.stopping or attempt.releasing or attempt.revoked

    def after(self, attempt: Attempt, failure: Failure) -> Result:
        """Another attempt or none: a plugin decides, else the handler's retries and backoff."""
        assert attempt.handler is not None  # it has begun
        about = attempt.job, attempt.handler.info, self._shared.clock.now(), random.uniform(-1, 1)
        try:
            return decisions.after(failure, self._shared.calls.decide(attempt.context, failure), *about)
        except (Exception, SystemExit) as error:  # it must not end the app (docs/protocol.md, S6)
            self._shared.problems.report("dispatch_decide", error)
            return decisions.after(failure, None, *about)
