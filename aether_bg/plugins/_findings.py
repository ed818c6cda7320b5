"""What a check looks for in every store: the store reads its rows in SQL, this module words the findings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeAlias

import anyio
import attrs

from aether_bg.errors import InvalidSchedule, shown
from aether_bg.explain import OVERDUE
from aether_bg.model import Finding, Process
from aether_bg.schedule import load

Findings: TypeAlias = list[Finding]
Look: TypeAlias = Callable[[list[Process]], Awaitable[Findings]]

MOST: Final = 5
"""The number of examples of each finding."""
_SETTLING: Final = 1.5
"""Seconds that a live process has to take back what a dead one held, before that becomes a finding."""

ORPHANED: Final = "jobs are RUNNING in processes that are gone: the next process that starts takes them back"
NO_PROCESS: Final = "jobs are due and no live process runs jobs here: start the app"
NO_HANDLER: Final = "jobs are due whose handler no live process has"
LATE: Final = f"jobs are more than {OVERDUE:g} s late: all slots are taken, or the scheduler does not call (see health)"
UNDECLARED: Final = "declared jobs that no live process declares any more: `aether-bg prune`, or prune_declared=True"


def problem(code: str, message: str, examples: Sequence[str], *, count: int | None = None) -> Findings:
    """A problem, if there are examples of it."""
    if not examples:
        return []
    count = len(examples) if count is None else count
    return [Finding(level="problem", code=code, message=message, count=count, examples=list(examples[:MOST]))]


def as_notes(findings: Iterable[Finding]) -> Findings:
    return [attrs.evolve(finding, level="note") for finding in findings]


def living(known: Iterable[Process]) -> tuple[list[Process], list[str]]:
    """The processes that are alive, and the handlers that they have."""
    live = [process for process in known if process.state == "alive"]
    return live, sorted({name for process in live for name in process.handlers})


async def unattended(
    processes: Callable[[], Awaitable[list[Process]]], twice: Sequence[Look], schedules: Look, rest: Sequence[Look]
) -> Findings:
    """Rows that wait, and processes that are silent. `twice`: read again if a live process may be about to act."""
    known = await processes()
    waiting = [await look(known) for look in twice]
    if any(waiting) and any(process.state == "alive" for process in known):
        await anyio.sleep(_SETTLING)
        known = await processes()
        waiting = [before and await look(known) for before, look in zip(waiting, twice, strict=True)]
    said = [finding for findings in waiting for finding in findings] + await schedules(known)
    for process in known:
        if process.state == "silent":
            message = f"{process.name} has given no sign since {process.beat_at:%Y-%m-%d %H:%M:%SZ}: is it stopped?"
            said.append(Finding(level="note", code="silent", message=message, examples=[str(process.id)]))
        if process.state == "alive":
            message = f"{process.name} could not apply declarations"
            said += as_notes(problem("declarations", message, process.problems))
    for look in rest:
        said += await look(known)
    return said


def unreadable_schedules(due: Iterable[tuple[str, str | None, str, bool, int]]) -> Findings:
    """Due jobs whose schedule the built-in language cannot read: some process must have the plugin that can.

    `due`: text, zone, the earliest due instant, whether that is overdue, and how many; the earliest first.
    """
    unread = []
    for text, zone, since, overdue, count in due:
        try:
            load(text, zone)
        except InvalidSchedule:
            unread.append((f"{shown(text)} since {since}", overdue, count))
    if not unread:
        return []
    return [
        Finding(
            level="problem" if unread[0][1] else "note", code="unreadable_schedule",
            count=sum(count for *_, count in unread), examples=[text for text, *_ in unread[:MOST]],
            message="jobs are due whose schedule only a plugin can read: is a process that has it alive?",
        )
    ]  # fmt: skip
