"""Jobs, outcomes and awkward values for the checks: what the kernel would pass to a store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Final
from uuid import UUID

import attrs

from aether_bg.model import Change, Completion, Definition, JobInfo, JobRun, JobStatus, Progress, RunOutcome

_numbers = count(1)

TEXTS: Final = (
    "", " ", "plain", "naïve Ünïcode ß", "日本語", "🦊", "e\u0301 and \u200dé", "line\nbreak\ttab\r\n", "nul\x00inside",
    "'; DROP TABLE jobs; --", '"quoted" \\back\\slash', "%like_", "\u202eright to left", "null", "{}", "x" * 10_000,
)  # fmt: skip
"""Strings that some layers change."""

NAMES: Final = (
    "plain", "Plain", "plain ", "naïve Ünïcode ß", "日本語", "🦊👍🏽", "e\u0301", "é", "'; DROP TABLE jobs; --",
    '"quoted"', "%like_", "*", "null", "{}", "None", "0", "x" * 200,
)  # fmt: skip
"""Names of jobs and handlers within the kernel's limits, all different."""

PAYLOADS: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, -1, 1.0, -0.0, 0.1, 1e308, 5e-324, 2**53 + 1, 2**63 - 1, -(2**63), [], {}, [[]],
    [None], {"": ""}, {"a": {"b": [1, 1.0, "1", True, None]}}, {"z": 1, "a": 2}, *TEXTS,
    {text[:50]: text for text in TEXTS},
)  # fmt: skip
"""JSON values, within the kernel's limits, whose type or digits a careless store loses."""

INSTANTS: Final = (
    datetime(1, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC), datetime(2026, 3, 29, 1, 0, tzinfo=UTC),
    datetime(2038, 1, 19, 3, 14, 8, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
)  # fmt: skip


def new_id() -> UUID:
    """Grows with time, as the kernel's do."""
    return UUID(int=(time.time_ns() // 1_000_000 << 80) | (0x7 << 76) | (0b10 << 62) | next(_numbers))


def now() -> datetime:
    return datetime.now(UTC)


def ago(seconds: float) -> datetime:
    return now() - timedelta(seconds=seconds)


def a_job(name: str | None = None, **fields: Any) -> JobInfo:
    """A one-shot for the handler "Work", SCHEDULED and due a second ago; `fields` over it."""
    id_, at = new_id(), now()
    due = fields.get("due_at", at - timedelta(seconds=1))
    about: dict[str, Any] = {
        "id": id_, "job_name": name or f"job-{id_}", "handler_name": "Work", "expression_value": "@once",
        "anchor": due or at, "created_at": at, "modified_at": at, "due_at": due, "occurrence": due,
    }  # fmt: skip
    return JobInfo(**about | fields)


def a_full_job() -> JobInfo:
    """Every field differs from its default, and each number from the others."""
    at = iter([now() + timedelta(microseconds=n) for n in range(1, 20)])
    return JobInfo(
        id=new_id(), handler_name="Süß 'Work'", job_name="mail:🦊 %_ \"x\"", expression_value="30 2 * * MON-FRI",
        payload={"to": ["日本", None, 7**9, 0.1]}, status=JobStatus.SCHEDULED, handled_time=next(at), retry_count=2,
        last_error="Traceback:\n  boom 'é'", extra_properties={"OrderId": 123, "flag": True, "deep": {"a": [1]}},
        created_at=next(at), created_by="ada", modified_at=next(at), modified_by="grace", due_at=next(at),
        occurrence=next(at), timezone="Asia/Kathmandu", start=next(at), repeats=11, until=INSTANTS[-1], misfire="all",
        misfire_grace=12.25, jitter=7.5, priority=-7, paused=True, seq=3, schedule_rev=4, armed_seq=1, manual=True,
        off_schedule=True, trigger_pending=True, crash_count=5, anchor=next(at), last_occurrence=next(at),
        occurrences=7, attempt=6, holds_name=True, owner=new_id(), started_at=next(at),
        progress=Progress(3, 12.5, "Kunden: 🦊", next(at)), checkpoint={"row": [7**9, None, "é"]}, declared=True,
        unique_for=86.5, parents=9, waits_for=8, after_any=True,
    )  # fmt: skip


def a_run(job: JobInfo, **fields: Any) -> JobRun:
    about: dict[str, Any] = {
        "job_id": job.id, "token": job.seq, "attempt": job.attempt, "occurrence": job.occurrence,
        "started_at": job.started_at, "owner": job.owner,
    }  # fmt: skip
    return JobRun(**about | fields)


_WRITTEN: Final = frozenset(field.name for field in attrs.fields(Change)) & frozenset(
    field.name for field in attrs.fields(JobInfo)
)


def change(job: JobInfo, **fields: Any) -> Change:
    """`job` as it is with `fields` over it, guarded by its seq and schedule_rev; seq goes up by one."""
    about = {name: getattr(job, name) for name in _WRITTEN}
    about |= {"job_id": job.id, "next_seq": job.seq + 1, "next_rev": job.schedule_rev, "modified_at": now()}
    return Change(**about | fields)


def completed(job: JobInfo, **fields: Any) -> Change:
    """The outcome of a claimed one-shot that went well, with its history row."""
    at = now()
    about: dict[str, Any] = {
        "status": JobStatus.COMPLETED, "due_at": None, "occurrence": None, "last_occurrence": job.occurrence,
        "occurrences": job.occurrences + 1, "handled_time": at, "owner": None,
        "runs": (a_run(job, outcome=RunOutcome.COMPLETED, finished_at=at),),
    }  # fmt: skip
    return change(job, **about | fields)


def failed(job: JobInfo, **fields: Any) -> Change:
    """The last outcome of a claimed one-shot that went wrong."""
    run = a_run(job, outcome=RunOutcome.FAILED, finished_at=now(), error=fields.get("last_error"))
    return completed(job, **{"status": JobStatus.FAILED, "last_error": "boom", "runs": (run,)} | fields)


def whole_completion(job: JobInfo, by: str | None = None) -> Change:
    """What the kernel writes when a one-shot has run."""
    at = now()
    last = job.occurrence if job.last_occurrence is None else max(job.last_occurrence, job.occurrence or at)
    return change(
        job, status=JobStatus.COMPLETED, due_at=None, owner=None, manual=False, off_schedule=False,
        trigger_pending=False, last_error=None, crash_count=0, last_occurrence=last, occurrences=job.occurrences + 1,
        handled_time=at, modified_at=at, modified_by=by,
        runs=(a_run(job, outcome=RunOutcome.COMPLETED, finished_at=at),),
    )  # fmt: skip


def completion_of(job: JobInfo, whole: Change) -> Completion:
    return Completion.of(job, whole.modified_at, whole.modified_by, lambda: whole)


def back_to_waiting(job: JobInfo, **fields: Any) -> Change:
    """A claimed job put back: released, to be claimed again."""
    runs = (a_run(job, outcome=RunOutcome.RELEASED, finished_at=now()),)
    return change(job, **{"status": JobStatus.SCHEDULED, "owner": None, "handled_time": now(), "runs": runs} | fields)


def cancelled(job: JobInfo, **fields: Any) -> Change:
    about = {"status": JobStatus.CANCELLED, "due_at": None, "holds_name": False, "handled_time": now(), "owner": None}
    return change(job, **about | fields)


def definition_of(job: JobInfo, **fields: Any) -> Definition:
    return Definition(**{f.name: getattr(job, f.name) for f in attrs.fields(Definition)} | fields)


def difference(got: JobInfo | JobRun, wanted: JobInfo | JobRun) -> str:
    """The fields that differ, in value or type, as text; empty when none does."""
    return "; ".join(_differing(got, wanted))


def _differing(got: Any, wanted: Any) -> Iterator[str]:
    for field in attrs.fields(type(wanted)):
        is_, should = getattr(got, field.name, "(missing)"), getattr(wanted, field.name)
        if not alike(is_, should):
            yield f"{field.name} is {is_!r:.200}, was {should!r:.200}"


def alike(one: Any, other: Any) -> bool:
    """Equal, and of the same JSON type at every level: 1, 1.0 and True are three values."""
    if isinstance(other, dict):
        same_keys = isinstance(one, dict) and one.keys() == other.keys()
        return same_keys and all(alike(one[key], value) for key, value in other.items())
    if isinstance(other, list | tuple):
        listed = isinstance(one, list | tuple) and len(one) == len(other)
        return listed and all(alike(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(other, datetime):
        return isinstance(one, datetime) and one == other and one.utcoffset() == timedelta(0)
    if isinstance(other, bool | float) or isinstance(one, bool | float):
        return type(one) is type(other) and repr(one) == repr(other)
    return bool(one == other)
