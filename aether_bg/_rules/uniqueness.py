"""When a job equals the one that already holds its name, and how they differ if not (docs/protocol.md, N2, N3)."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Final
from uuid import UUID

import attrs

from aether_bg.errors import JobConflict, shown
from aether_bg.model import JobInfo, Unreadable

_COMPARED: Final = {
    "handler_name": "handler", "payload": "payload", "expression_value": "schedule", "timezone": "timezone",
    "start": "start", "repeats": "repeats", "until": "until", "misfire": "misfire", "misfire_grace": "misfire_grace",
    "jitter": "jitter", "priority": "priority", "parents": "after", "after_any": "after_any",
}  # fmt: skip
"""The fields that two identical definitions share, with `enqueue`'s names for them."""


def differences(held: JobInfo, wanted: JobInfo) -> list[str]:
    """The arguments in which they differ, by `enqueue`'s names; empty when they are identical."""
    if isinstance(held, Unreadable):
        return ["schedule", "other columns that cannot be read"]

    def canonical(job: JobInfo, name: str) -> Any:
        value = getattr(job, name)
        match name:
            case "payload":
                return json.dumps(value, sort_keys=True)
            case "timezone":
                return None if value == "UTC" else value
        return value

    return [shown_as for name, shown_as in _COMPARED.items() if canonical(held, name) != canonical(wanted, name)]


def beside(held: JobInfo, wanted: JobInfo, linked: Collection[UUID], after: Collection[UUID]) -> JobInfo:
    """`wanted`, ready to be compared with `held`: equal numbers of parents still differ if they are other jobs.
    `linked`: the parents of `held` that are not purged; `after`: the parents of `wanted`."""
    same = held.parents != wanted.parents or set(linked) <= set(after)
    return wanted if same else attrs.evolve(wanted, parents=-1)


def same_schedule(differs: list[str]) -> bool:
    """The schedule's text, zone and start. While these stay the same, a redefinition keeps what waits
    (docs/protocol.md, U1)."""
    return not {"schedule", "timezone", "start"}.intersection(differs)


def kept(held: JobInfo, wanted: JobInfo, if_exists: str) -> UUID:
    """The holder's id if it answers the enqueue. Raises `JobConflict` if it does not."""
    differs = differences(held, wanted)
    if if_exists == "keep" or not differs:
        return held.id
    raise conflict(held, differs, replaceable=if_exists != "replace")


def other_parents(held: JobInfo, differs: list[str]) -> JobConflict:
    """A job keeps its parents as long as it waits or runs (docs/protocol.md, A5)."""
    return JobConflict(
        f"job name {shown(held.job_name)}", f"it is held by a {held.status.name} job that runs after others",
        "Its parents cannot be replaced: delete it first.", existing=held, differences=differs,
    )  # fmt: skip


def conflict(held: JobInfo, differs: list[str], *, replaceable: bool = True) -> JobConflict:
    """`replaceable` False: where "replace" cannot be honoured, inside a unit of work."""
    other = 'if_exists="keep" or "replace"' if replaceable else 'if_exists="keep"; a unit of work cannot replace'
    rule = f"it is held by a {held.status.name} job that differs in {', '.join(differs)}"
    return JobConflict(
        f"job name {shown(held.job_name)}", rule, f"Use another name, or {other}.", existing=held, differences=differs
    )


def taken(held: JobInfo) -> JobConflict:
    """The holder of a name has changed between the look-up and the commit of a unit of work (docs/protocol.md, W6)."""
    return JobConflict(
        f"job name {shown(held.job_name)}", "another job has taken it while the unit of work was open",
        "Nothing of the unit has happened; do it again.", existing=held,
    )  # fmt: skip


def busy(held: JobInfo) -> JobConflict:
    return JobConflict(
        f"job name {shown(held.job_name)}", "its one-shot job is running, so it cannot be replaced",
        "Wait until it has ended, or delete it first.", existing=held,
    )  # fmt: skip


def own(held: JobInfo, *, replaceable: bool = True) -> JobConflict:
    """A running one-shot enqueues the name that it holds itself: its id would promise a run that never comes."""
    replace = ', or enqueue it with if_exists="replace"' if replaceable else "; a unit of work cannot replace"
    return JobConflict(
        f"job name {shown(held.job_name)}", "it is held by the job that is running this call, and that is a one-shot",
        f"To run it again, raise Snooze, or give it another schedule with update(){replace}.", existing=held,
    )  # fmt: skip
