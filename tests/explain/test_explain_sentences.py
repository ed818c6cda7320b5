"""`explain` as a table: a row, its history and who lives, and the sentences that must (and must not) be said."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import attrs
import pytest

from aether_bg import JobInfo, JobRun, JobStatus, RunOutcome, schedule
from aether_bg.explain import Around, Waiting, explain, waiting

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ID, ME, OTHER = UUID(int=1), UUID(int=2), UUID(int=3)
ALIVE = Around(owners={OTHER: "process 7 on box"}, handlers=frozenset({"Send"}))
NOBODY = Around(owners={}, handlers=frozenset())


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def job(**fields: Any) -> JobInfo:
    """SCHEDULED, once, due now."""
    known: dict[str, Any] = {
        "id": ID, "handler_name": "Send", "job_name": "send-1", "expression_value": "@once", "created_at": at(-600),
        "modified_at": at(-600), "anchor": at(-600), "due_at": NOW, "occurrence": NOW,
    }  # fmt: skip
    return JobInfo(**known | fields)


def run(outcome: RunOutcome | None, **fields: Any) -> JobRun:
    known: dict[str, Any] = {
        "job_id": ID, "token": 1, "attempt": 1, "occurrence": at(-60), "outcome": outcome, "started_at": at(-60),
        "finished_at": None if outcome is None else at(-58), "owner": OTHER,
    }  # fmt: skip
    return JobRun(**known | fields)


HOURLY = {"expression_value": "@every 1h", "anchor": at(-7200)}
RETRYING = {"attempt": 2, "retry_count": 2, "last_error": "ValueError: no\nTraceback …", "due_at": at(4)}

PARENTS = attrs.evolve(ALIVE, parents=[
    job(job_name="a"), job(job_name="b", status=JobStatus.RUNNING), job(job_name="c", status=JobStatus.COMPLETED),
])  # fmt: skip

WAITING: list[tuple[str, dict[str, Any], Around, Waiting | None, str]] = [
    ("later", {"due_at": at(30)}, ALIVE, Waiting.TIME, "It waits for that instant."),
    ("later, no process", {"due_at": at(30)}, NOBODY, Waiting.TIME, "start the app by then"),
    ("later, without handler", {"due_at": at(30), "handler_name": "Other"}, ALIVE, Waiting.TIME,
     "No live process has the handler 'Other' now."),
    ("later, not armed", {"due_at": at(30), "seq": 4, "armed_seq": 3}, attrs.evolve(ALIVE, arms=True), Waiting.TIME,
     "The scheduler does not hold it yet."),
    ("backoff", RETRYING, ALIVE, Waiting.RETRY, "It waits for its next try."),
    ("paused", {"paused": True}, ALIVE, Waiting.RESUME, "It is paused: `resume` lets it go on"),
    ("paused and later", {"paused": True, "due_at": at(30)}, NOBODY, Waiting.RESUME, "It would be due at"),
    ("paused, triggered", {"paused": True, "manual": True}, ALIVE, Waiting.CLAIM,
     "runs as soon as it can, though paused"),
    ("after others", {"parents": 5, "waits_for": 2}, PARENTS, Waiting.PARENTS,
     "It waits for 2 of 5 jobs to complete: 'b' (RUNNING), 'a' (SCHEDULED)."),
    ("after any end", {"parents": 1, "waits_for": 1, "after_any": True}, ALIVE, Waiting.PARENTS,
     "It waits for 1 job to end."),
    ("after others, paused", {"parents": 5, "waits_for": 2, "paused": True}, ALIVE, Waiting.PARENTS,
     "It is paused as well: it also waits for `resume`."),
    ("no process lives", {}, NOBODY, Waiting.OWNER, "No live process runs jobs on this store"),
    ("no handler", {"handler_name": "Other"}, ALIVE, Waiting.HANDLER,
     "It waits for a process that has the handler 'Other': the one live process has Send."),
    ("no handler, since", {"handler_name": "Other", "due_at": at(-60)}, ALIVE, Waiting.HANDLER,
     "It has waited since 2026-03-01 11:59:00Z."),
    ("unreadable schedule", {"expression_value": "@lunch"}, attrs.evolve(ALIVE, readable=False), Waiting.SCHEDULE,
     "It waits for a process that can read its schedule '@lunch', which this one cannot. It has waited since 2026-"),
    ("unreadable, later", {"due_at": at(30)}, attrs.evolve(ALIVE, readable=False), Waiting.TIME, "for that instant."),
    ("parents", {"waits_for": 1, "parents": 1}, ALIVE, Waiting.PARENTS, "It waits for 1 job to complete."),
    ("limit", {}, attrs.evolve(ALIVE, running=2, limit=2), Waiting.LIMIT, "2 of 2 run, over all processes"),
    ("handler paused", {"handler_paused": True}, ALIVE, Waiting.RESUME, "is paused: `resume` lets it go on"),
    ("no slot", {}, attrs.evolve(ALIVE, free=0), Waiting.SLOT, "all of this process's are taken"),
    ("scheduler in trouble", {}, attrs.evolve(ALIVE, trouble="sidecar away\nx"), Waiting.SCHEDULER,
     "It waits for the scheduler, which has not called (sidecar away)"),
    ("not armed", {"seq": 4, "armed_seq": 3}, attrs.evolve(ALIVE, arms=True), Waiting.SCHEDULER,
     "which does not hold it yet;"),
    ("armed", {"seq": 4, "armed_seq": 4}, attrs.evolve(ALIVE, arms=True), Waiting.CLAIM, "It is about to be claimed."),
    ("overdue, slots free", {"due_at": at(-61)}, attrs.evolve(ALIVE, free=3), Waiting.SCHEDULER, "has not called"),
    ("overdue, slots unknown", {"due_at": at(-61)}, ALIVE, Waiting.CLAIM, "It is overdue: the slots of every process"),
    ("just due", {}, ALIVE, Waiting.CLAIM, "It is about to be claimed."),
    ("just due, nothing known", {}, Around(), Waiting.CLAIM, "It waits to be claimed."),
    ("crashed twice", {"crash_count": 2, "attempt": 2}, ALIVE, Waiting.CLAIM, "it runs alone"),
    ("ended", {"status": JobStatus.COMPLETED, "due_at": None}, ALIVE, None, "It completed at"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "around", "what", "sentence"), [row[1:] for row in WAITING], ids=[row[0] for row in WAITING]
)
def test_what_it_waits_for(fields: dict[str, Any], around: Around, what: Waiting | None, sentence: str) -> None:
    row = job(**fields)
    assert waiting(row, NOW, around) is what
    assert sentence in explain(row, [], now=NOW, around=around)


def test_each_kind_of_waiting_is_in_the_table() -> None:
    assert {row[3] for row in WAITING} == {*Waiting, None}


STORIES: list[tuple[str, JobInfo, list[JobRun], Around, list[str]]] = [
    ("never attempted", job(due_at=at(3700)), [], ALIVE, [
        "'send-1' (Send, id 00000000-0000-0000-0000-000000000001) is SCHEDULED.",
        "Schedule '@once': once, now.",
        "It is due at 2026-03-01 13:01:40Z, in 1 h 1 min.",
        "It waits for that instant.",
        "It has never been attempted.",
    ]),
    ("retrying", job(**RETRYING), [
        run(RunOutcome.TIMED_OUT, attempt=2, token=3, error="Timed out after 2 s"),
        run(RunOutcome.FAILED, error="ValueError: no\nTraceback …", finished_at=at(-60)),
    ], ALIVE, [
        "'send-1' (Send, id 00000000-0000-0000-0000-000000000001) is SCHEDULED.",
        "Schedule '@once': once, now.",
        "It is due at 2026-03-01 12:00:04Z, in 4 s.",
        "That is retry 2; the last attempt failed: ValueError: no.",
        "It waits for its next try.",
        "- attempt 2 of 2026-03-01 11:59:00Z: timed out at 2026-03-01 11:59:02Z after 2 s: Timed out after 2 s",
        "- attempt 1 of 2026-03-01 11:59:00Z: failed at 2026-03-01 11:59:00Z: ValueError: no",
    ]),
    ("recurring, with gaps", job(**HOURLY, due_at=at(3600), occurrence=at(3600), occurrences=1, repeats=9), [
        run(RunOutcome.OVERLAPPED, gap=1, count=1, occurrence=at(-30), last_occurrence=at(-30), started_at=None),
        run(RunOutcome.COMPLETED),
        run(RunOutcome.SKIPPED, token=0, count=3, occurrence=at(-300), last_occurrence=at(-100), started_at=None),
    ], ALIVE, [
        "'send-1' (Send, id 00000000-0000-0000-0000-000000000001) is SCHEDULED.",
        "Schedule '@every 1h': every 1 hour, 1 of at most 9 occurrences done.",
        "It is due at 2026-03-01 13:00:00Z, in 1 h.",
        "It waits for that instant.",
        "- the occurrence of 2026-03-01 11:59:30Z: not run, due while the previous run was still going",
        "- attempt 1 of 2026-03-01 11:59:00Z: completed at 2026-03-01 11:59:02Z after 2 s",
        "- 3 occurrences from 2026-03-01 11:55:00Z to 2026-03-01 11:58:20Z: skipped, later than the grace allows "
        "or due during a pause",
    ]),
    ("running", job(status=JobStatus.RUNNING, attempt=1, owner=OTHER, started_at=at(-90)), [run(None)], ALIVE, [
        "'send-1' (Send, id 00000000-0000-0000-0000-000000000001) is RUNNING.",
        "Schedule '@once': once, now.",
        "Attempt 1 has run for 1 min 30 s, since 2026-03-01 11:58:30Z, for the occurrence of 2026-03-01 12:00:00Z, "
        "claimed by owner 00000000-0000-0000-0000-000000000003 (process 7 on box).",
        "- attempt 1 of 2026-03-01 11:59:00Z: running since 2026-03-01 11:59:00Z",
    ]),
    ("failed", job(status=JobStatus.FAILED, due_at=None, attempt=3, handled_time=at(-1), last_error="ValueError: no."),
     [], ALIVE, [
        "'send-1' (Send, id 00000000-0000-0000-0000-000000000001) is FAILED.",
        "Schedule '@once': once, now.",
        "It failed for good at 2026-03-01 11:59:59Z after 3 attempts: ValueError: no. `retry` runs it again.",
    ]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "runs", "around", "told"), [story[1:] for story in STORIES], ids=[s[0] for s in STORIES]
)
def test_the_whole_story(row: JobInfo, runs: list[JobRun], around: Around, told: list[str]) -> None:
    assert explain(row, runs, now=NOW, around=around).split("\n") == told


RUNNING = {"status": JobStatus.RUNNING, "attempt": 1, "owner": OTHER, "started_at": at(-5)}
SAID: list[tuple[str, JobInfo, list[JobRun], Around, str, str]] = [
    # name, row, runs, around, must be said, must not be said
    ("owner died, others live", job(**RUNNING), [], Around(owners={ME: ""}, gone={OTHER: "has died"}),
     "That process has died: another live process takes the job back", "next process that starts"),
    ("owner died, no process lives", job(**RUNNING), [], Around(owners={}, gone={OTHER: "has died"}),
     "That process has died: the next process that starts takes the job back", "another"),
    ("owner without a row", job(**RUNNING), [], NOBODY, "That process is gone", "has died"),
    ("owner unknown to a client", job(**RUNNING), [], Around(), "claimed by owner", "gone"),
    ("this process", job(**RUNNING | {"owner": ME}), [], Around(owners={ME: ""}, here=ME),
     "claimed by this process", "gone"),
    ("paused while running", job(**RUNNING, paused=True), [], ALIVE, "nothing follows before `resume`", "gone"),
    ("triggered while running", job(**RUNNING, trigger_pending=True), [], ALIVE,
     "it runs once more afterwards", "gone"),
    ("second attempt runs", job(**RUNNING | {"attempt": 2}, retry_count=1, last_error="KeyError: 'a'"), [], ALIVE,
     "That is retry 1; the attempt before failed: KeyError: 'a'.", "never"),
    ("snoozed", job(attempt=1, due_at=at(9)), [run(RunOutcome.SNOOZED)], ALIVE,
     "Attempt 1 asked at 2026-03-01 11:59:02Z to be called again then", "That is retry"),
    ("released", job(attempt=1), [run(RunOutcome.RELEASED)], ALIVE, "put back by a stop at", "retry"),
    ("crashed", job(attempt=1, crash_count=1), [run(RunOutcome.CRASHED)], ALIVE,
     "Its process died in attempt 1 (crash 1): it runs again.", "retry 1"),
    ("last occurrence failed", job(**HOURLY, due_at=at(9), last_error="OSError: x"), [run(RunOutcome.FAILED)], ALIVE,
     "Its last occurrence failed: OSError: x.", "That is retry"),
    ("superseded", job(due_at=at(9)), [run(RunOutcome.SUPERSEDED, gap=1, started_at=None)], ALIVE,
     "- the retry after attempt 1 of 2026-03-01 11:59:00Z: superseded by an update", "- attempt"),
    ("misfire once", job(**HOURLY, due_at=at(-20), occurrence=at(-20)), [], ALIVE,
     "It is later than its grace of 10 s: one run will stand for all that were missed", "skipped"),
    ("misfire skip", job(**HOURLY, due_at=at(-20), occurrence=at(-20), misfire="skip"), [], NOBODY,
     "what was missed will be skipped (misfire='skip')", "one run"),
    ("misfire all", job(**HOURLY, due_at=at(-20), occurrence=at(-20), misfire="all"), [], ALIVE,
     "oldest first", "skipped"),
    ("within the grace", job(**HOURLY, due_at=at(-9), occurrence=at(-9)), [], ALIVE, "It was due", "grace"),
    ("a one-shot has no grace", job(due_at=at(-20), occurrence=at(-20)), [], ALIVE, "20 s ago", "grace"),
    ("a retry has no grace", job(**HOURLY, due_at=at(-20), occurrence=at(-20), attempt=1), [], ALIVE,
     "20 s ago", "grace"),
    ("cancelled", job(status=JobStatus.CANCELLED, due_at=None, handled_time=NOW, holds_name=False,
                      modified_by="ann\x1b[1m"), [], ALIVE,
     "It was cancelled at 2026-03-01 12:00:00Z by ann\\x1b[1m; its name is free.", "\x1b"),
    ("completed, recurring", job(status=JobStatus.COMPLETED, due_at=None, handled_time=NOW, occurrences=4), [], ALIVE,
     "after 4 occurrences", "never"),
    ("failed by crashes", job(status=JobStatus.FAILED, due_at=None, handled_time=NOW, crash_count=5), [], ALIVE,
     "and 5 crashes: no error recorded.", "never"),
    ("bounds", job(**HOURLY, start=at(60), until=at(600)), [], ALIVE,
     "every 1 hour, not before 2026-03-01 12:01:00Z, until 2026-03-01 12:10:00Z.", "occurrences done"),
    ("a plugin's words", job(expression_value="@market-open"), [], ALIVE,
     "a schedule that no plugin here can read", "?"),
    ("escapes", job(job_name="a\u202eb", handler_name="Se\x9bnd", last_error="\n\x1b]0;x\x07\rboo\n", retry_count=1),
     [], ALIVE, "the last attempt failed: \\x1b]0;x\\x07.", "\x1b"),
    ("no due instant", job(due_at=None), [], ALIVE, "the row is damaged", "It is due"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "runs", "around", "said", "unsaid"), [s[1:] for s in SAID], ids=[s[0] for s in SAID])
def test_said_and_unsaid(row: JobInfo, runs: list[JobRun], around: Around, said: str, unsaid: str) -> None:
    told = explain(row, runs, now=NOW, around=around)
    assert said in told
    assert unsaid not in told
    assert told.replace("\n", "").isprintable()


def test_every_outcome_has_a_sentence() -> None:
    for outcome in RunOutcome:
        last = explain(job(), [run(outcome, error="why\x07")], now=NOW).split("\n")[-1]
        assert last.startswith("- attempt 1 of 2026-03-01 11:59:00Z: ")
        assert last.endswith(" after 2 s: why\\x07")


def test_a_schedule_read_by_a_plugin_and_another_zone() -> None:
    row = job(expression_value="@market-open", due_at=at(60), occurrence=at(60))
    told = explain(
        row, [], now=NOW, schedule=schedule.parse("30 9 * * MON-FRI"), zone=timezone(timedelta(hours=2))
    )  # fmt: skip
    assert "at 09:30 every Monday to Friday" in told
    assert "It is due at 2026-03-01 14:01:00+02:00, in 1 min." in told
