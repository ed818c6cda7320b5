"""When is a job the one that holds the name already, and what is said when it is not (PROTOCOL N2, N3)."""

from __future__ import annotations

import json
from typing import Any, Final
from uuid import UUID

from aether_bg.errors import JobConflict, shown
from aether_bg.model import JobInfo, JobStatus

_COMPARED: Final = {
    "handler_name": "handler", "payload": "payload", "expression_value": "schedule", "timezone": "timezone",
    "start": "start", "repeats": "repeats", "until": "until", "misfire": "misfire", "misfire_grace": "misfire_grace",
}  # fmt: skip
"""What makes two definitions identical, and what `enqueue` calls it."""


def differences(held: JobInfo, wanted: JobInfo) -> list[str]:
    """The arguments in which they differ, by `enqueue`'s names; empty when identical."""

    def canonical(job: JobInfo, name: str) -> Any:
        value = getattr(job, name)
        return json.dumps(value, sort_keys=True) if name == "payload" else value

    return [shown_as for name, shown_as in _COMPARED.items() if canonical(held, name) != canonical(wanted, name)]


def kept(held: JobInfo, wanted: JobInfo, if_exists: str) -> UUID:
    """The holder's id where that answers the enqueue. Raises `JobConflict` where it does not."""
    differs = differences(held, wanted)
    if if_exists == "keep" or (not differs and held.status is not JobStatus.FAILED):
        return held.id
    raise conflict(held, differs, replaceable=if_exists != "replace")


def conflict(held: JobInfo, differs: list[str], *, replaceable: bool = True) -> JobConflict:
    """`replaceable` False: where "replace" cannot be honoured, inside a unit of work."""
    other = 'if_exists="keep" or "replace"' if replaceable else 'if_exists="keep"; a unit of work cannot replace'
    if differs:
        rule = f"it is held by a {held.status.name} job that differs in {', '.join(differs)}"
        remedy = f"Use another name, or {other}."
    else:
        rule = "it is held by the same job, which has FAILED"
        remedy = f"Use retry, or {other}."
    return JobConflict(f"job name {shown(held.job_name)}", rule, remedy, existing=held, differences=differs)


def taken(held: JobInfo) -> JobConflict:
    """The holder of a name has changed between the look-up and the commit of a unit of work (PROTOCOL W6)."""
    return JobConflict(
        f"job name {shown(held.job_name)}", "another job has taken it while the unit of work was open",
        "Nothing of the unit has happened; do it again.", existing=held,
    )  # fmt: skip


def busy(held: JobInfo) -> JobConflict:
    return JobConflict(
        f"job name {shown(held.job_name)}", "its one-shot job is running, so it cannot be replaced",
        "Wait for it, or delete it first.", existing=held,
    )  # fmt: skip
