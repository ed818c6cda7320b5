"""Are due jobs run? From the rows themselves: no memory of a warning that fades, whatever the scheduler."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from aether_bg._kernel.engine import Engine
from aether_bg.errors import shown
from aether_bg.explain import OVERDUE
from aether_bg.model import JobInfo, Query

_MOST: Final = 100


async def overdue(engine: Engine) -> str | None:
    """What is overdue of this process's handlers, and the likely cause; None when nothing is. Raises a `StoreError`."""
    names = set(engine.handlers) if engine.alive is None else engine.alive.due.intersection(engine.handlers)
    due_before = engine.clock.now() - timedelta(seconds=OVERDUE)
    late: list[JobInfo] = []
    for name in sorted(names):
        found = await engine.calls.find(Query(handler_name=name, due_before=due_before, order="due", limit=_MOST))
        late += [job for job in found if not engine.cannot_read(job)]
    if not late:
        return None
    first = min(late, key=lambda job: job.due_at or due_before)
    since = (engine.clock.now() - (first.due_at or due_before)).total_seconds()
    count = f"{len(late)} jobs are" if len(late) > 1 else "1 job is"
    return (
        f"{count} overdue by more than {OVERDUE:g} s; the first, {shown(first.job_name)}, has been due for "
        f"{since:.0f} s: {likely_cause(engine)}"
    )


def likely_cause(engine: Engine) -> str:
    """Why due jobs may not run, as far as this process knows."""
    if engine.free < 1:
        return f"all {engine.options.concurrency} slots of this process are taken"
    if engine.claim_error is not None:
        return f"the store refuses claims: {engine.claim_error}"
    return said_by(engine.calls.scheduler, "likely_cause") or "the scheduler does not call; check that it runs"


def said_by(scheduler: object, attribute: str) -> str | None:
    """What a scheduler plugin says of itself, by an attribute or a plain method that it may have."""
    said = getattr(scheduler, attribute, None)
    said = said() if callable(said) else said
    return str(said) if said else None
