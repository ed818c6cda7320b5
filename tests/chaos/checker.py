"""The judge. It knows what was acknowledged and what handlers did from files that they wrote themselves, and holds
the rows of the database against that; no code of the store under test takes part.

Events it reads: `ack` (an enqueue returned), `verb` (retry, delete, … returned), `start` and `end` of a handler,
`ended` and `recovered` (told by lifecycle_event).
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import attrs

from chaos import history as files

TERMINAL = (2, 3, 4)
COMPLETED, FAILED = 2, 3
STATUS = {"SCHEDULED": 0, "RUNNING": 1, "COMPLETED": 2, "FAILED": 3, "CANCELLED": 4}
CLOCK = 0.002
"""Seconds that reading the clock twice may differ by."""
LATE = 5.0
"""Seconds after which a due row that no process runs is overdue."""


class Violation(AssertionError):
    """The history and the rows do not agree; all findings, one a line."""

    def __init__(self, findings: list[str]) -> None:
        self.findings = findings
        more = [f"… and {len(findings) - 40} more"] if len(findings) > 40 else []
        super().__init__("\n".join([f"{len(findings)} violations", *findings[:40], *more]))


@attrs.frozen
class Snapshot:
    """What the file says, read with plain SQL."""

    jobs: dict[str, dict[str, Any]]
    runs: list[dict[str, Any]]
    effects: list[tuple[str, str, int]]
    integrity: list[str]


def snapshot(database: str | os.PathLike[str]) -> Snapshot:
    with closing(sqlite3.connect(database, timeout=30)) as conn:
        conn.execute("PRAGMA query_only = ON")
        conn.row_factory = sqlite3.Row
        conn.execute("BEGIN")
        jobs = {row["id"]: dict(row) for row in conn.execute("SELECT * FROM aether_jobs")}
        runs = [dict(row) for row in conn.execute("SELECT * FROM aether_runs ORDER BY job_id, token, gap")]
        has = conn.execute("SELECT 1 FROM sqlite_master WHERE name = 'effects'").fetchone()
        effects = [tuple(row) for row in conn.execute("SELECT job, occurrence, token FROM effects")] if has else []
        conn.execute("COMMIT")
        integrity = [row[0] for row in conn.execute("PRAGMA integrity_check")]
        integrity += [f"foreign key: {tuple(row)}" for row in conn.execute("PRAGMA foreign_key_check")]
    return Snapshot(jobs=jobs, runs=runs, effects=effects, integrity=[line for line in integrity if line != "ok"])


def check(
    history: str | os.PathLike[str] | list[dict[str, Any]],
    database: str | os.PathLike[str] | Snapshot,
    *,
    now: float | None = None,
    late: float = LATE,
    effect_handlers: Iterable[str] = ("effect",),
    purged: bool = False,
    overlaps: bool = True,
    clock_moves: bool = False,
    failures: bool = False,
) -> Counter[str]:
    """Raise `Violation` unless everything holds; else what was counted.

    `late`: what counts as overdue at `now`. `purged`: rows may be missing. `overlaps`: two attempts of a job may run
    at once (a stopped or cut-off process may go on with an attempt that is no longer its own). `clock_moves`: do not
    compare wall clocks. `failures`: FAILED is legal though nothing crashed five times.
    """
    events = history if isinstance(history, list) else files.read(history)
    rows = database if isinstance(database, Snapshot) else snapshot(database)
    judge = _Judge(events, rows, time.time() if now is None else now)
    judge.integrity()
    judge.acknowledged(purged)
    judge.completed_once()
    judge.terminal_stays(purged)
    judge.effects(set(effect_handlers))
    judge.completed_means_returned(purged)
    judge.history_rows()
    if not clock_moves:
        judge.not_early()
    judge.nothing_overdue(late)
    if not overlaps:
        judge.no_overlap()
    if not failures:
        judge.failed_for_a_reason()
    if judge.findings:
        raise Violation(judge.findings)
    return judge.counts()


class _Judge:
    def __init__(self, events: list[dict[str, Any]], rows: Snapshot, now: float) -> None:
        self.rows, self.now = rows, now
        self.findings: list[str] = []
        self.kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for event in events:
            self.kinds[event["event"]].append(event)
        self.starts = {(e["job"], e["token"]): e for e in self.kinds["start"]}
        self.ends = {(e["job"], e["token"]): e for e in self.kinds["end"]}
        self.retried = {e["job"] for e in self.kinds["verb"] if e["verb"] == "retry"}
        self.completed = [run for run in rows.runs if run["outcome"] == "completed"]

    def find(self, text: str) -> None:
        self.findings.append(text)

    def integrity(self) -> None:
        for line in self.rows.integrity:
            self.find(f"integrity_check: {line}")

    def acknowledged(self, purged: bool) -> None:
        """Nothing lost: every acknowledged job has ended or is still due."""
        for ack in self.kinds["ack"]:
            row = self.rows.jobs.get(ack["job"])
            if row is None:
                if not purged:
                    self.find(f"lost: {ack['name']} ({ack['job']}) was acknowledged and is not there")
            elif row["status"] not in TERMINAL and row["status"] != 1 and row["due_at"] is None:
                self.find(f"stuck: {ack['name']} is {row['status']} and not due")

    def completed_once(self) -> None:
        """At most one Completed per (job, occurrence): by the rows, by the observers, by the effects."""
        seen = Counter((run["job_id"], run["occurrence"]) for run in self.completed)
        told = Counter((e["job"], e["occurrence"]) for e in self.kinds["ended"] if e["outcome"] == "completed")
        done = Counter((job, occurrence) for job, occurrence, _ in self.rows.effects)
        for what, counted in (("rows", seen), ("observers", told), ("effects", done)):
            for key, times in counted.items():
                if times > 1:
                    self.find(f"completed {times} times, by the {what}: {key}")

    def terminal_stays(self, purged: bool) -> None:
        """A terminal state is left by `retry` only."""
        last: dict[str, tuple[int, str]] = {}
        for event in self.kinds["ended"]:
            job, token = event["job"], event["token"]
            if STATUS[event["status"]] in TERMINAL and job not in self.retried:
                if job in last and last[job][0] != token:
                    self.find(f"ended twice: {job} with tokens {last[job][0]} and {token}")
                last[job] = (token, event["status"])
        for job, (token, status) in last.items():
            row = self.rows.jobs.get(job)
            if row is None:
                if not purged:
                    self.find(f"lost: {job} ended as {status} and is not there")
            elif row["status"] != STATUS[status]:
                self.find(f"terminal state left: {job} was {status} (token {token}) and is {row['status']}")
        for (job, token), event in self.starts.items():
            if job in last and token > last[job][0]:
                self.find(f"started after its end: {job} token {token} by {event['pid']}, ended at {last[job][0]}")

    def effects(self, handlers: set[str]) -> None:
        """Rows written through a unit of work = Completed attempts."""
        names = {job: row["handler_name"] for job, row in self.rows.jobs.items()}
        wanted = {(r["job_id"], r["token"]) for r in self.completed if names.get(r["job_id"]) in handlers}
        there = {(job, token) for job, _, token in self.rows.effects if job in names}
        for key in wanted - there:
            self.find(f"completed without its effect: {key}")
        for key in there - wanted:
            self.find(f"effect without Completed: {key}")

    def completed_means_returned(self, purged: bool) -> None:
        """Who is Completed was run to its end, by that very attempt; and what was told as done is there."""
        there = {(run["job_id"], run["token"]) for run in self.completed}
        for key in there:
            if key not in self.starts:
                self.find(f"completed, but no handler started with that token: {key}")
            elif self.ends.get(key, {}).get("how") != "returned":
                self.find(f"completed, but its handler did not return: {key}")
        if purged:
            return
        for event in self.kinds["ended"]:
            if event["outcome"] == "completed" and (event["job"], event["token"]) not in there:
                self.find(f"told as completed, but the rows do not say so: {(event['job'], event['token'])}")

    def history_rows(self) -> None:
        """An open history row is the current attempt's; a RUNNING row has one."""
        open_runs = {(run["job_id"], run["token"]) for run in self.rows.runs if run["outcome"] is None}
        running = {(job, row["seq"]) for job, row in self.rows.jobs.items() if row["status"] == 1}
        for key in open_runs ^ running:
            self.find(f"history and state differ (RUNNING without open attempt, or the reverse): {key}")

    def not_early(self) -> None:
        """start ≥ due: the row's own, what the producer asked for, and what the last failure said."""
        asked: dict[str, float] = {}
        for ack in self.kinds["ack"]:  # the first one made the job
            asked.setdefault(ack["job"], ack["not_before"])
        promised = {
            (e["job"], e["token"]): _seconds(e["due"])
            for e in self.kinds["ended"]
            if e["due"] and e["outcome"] in ("failed", "timed_out", "snoozed")
        }
        moved = {e["job"] for e in self.kinds["verb"]}
        for (job, token), event in self.starts.items():
            due = _seconds(event["due"])
            if job not in moved:
                due = max(due, asked.get(job, 0.0), promised.get((job, token - 2), 0.0))
            if event["at"] < due - CLOCK:
                self.find(f"early by {due - event['at']:.4f} s: {job} token {token}")

    def nothing_overdue(self, late: float) -> None:
        for job, row in self.rows.jobs.items():
            if row["status"] == 0 and (not row["paused"] or row["manual"]) and row["due_at"] is not None:
                over = self.now - _seconds(row["due_at"])
                if over > late:
                    self.find(f"overdue by {over:.1f} s: {row['job_name']} ({job})")
            if row["status"] == 1 and row["started_at"] and self.now - _seconds(row["started_at"]) > late:
                self.find(f"still RUNNING: {row['job_name']} ({job}) since {row['started_at']}")

    def no_overlap(self) -> None:
        """Attempts of one job never ran at once. An attempt without an end was killed with its process."""
        by_job: dict[str, list[tuple[int, float, float | None]]] = defaultdict(list)
        for (job, token), event in self.starts.items():
            end = self.ends.get((job, token))
            by_job[job].append((token, event["mono"], end and end["mono"]))
        for job, attempts in by_job.items():
            attempts.sort()
            for (token, _, end), (following, start, _) in pairwise(attempts):
                if end is not None and start < end - CLOCK:
                    self.find(f"overlap: {job} tokens {token} and {following} by {end - start:.3f} s")

    def failed_for_a_reason(self) -> None:
        for row in self.rows.jobs.values():
            if row["status"] == FAILED and row["crash_count"] < 5:
                error = (row["last_error"] or "").splitlines()
                self.find(f"FAILED after {row['crash_count']} crashes: {row['job_name']}: {error[:1]}")

    def counts(self) -> Counter[str]:
        found: Counter[str] = Counter({f"{kind}s": len(events) for kind, events in self.kinds.items()})
        names = {number: name.lower() for name, number in STATUS.items()}
        found.update(names[row["status"]] for row in self.rows.jobs.values())
        found["restarted"] = sum(1 for run in self.rows.runs if run["outcome"] == "crashed")
        return found


def _seconds(text: str | None) -> float:
    if text is None:
        return 0.0
    when = datetime.fromisoformat(text)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
