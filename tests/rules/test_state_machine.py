"""A job's row in a real file, moved in every way: what docs/protocol.md, C, R and U promise must hold after each."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aether_bg._rules import adjustments, commands, results, transitions
from aether_bg._rules.changes import Moment
from aether_bg._rules.recurrence import KEPT, Plan, anchor_for
from aether_bg.errors import InvalidTransition, NameHeld, Stale
from aether_bg.model import (
    Change,
    Claim,
    Completion,
    Definition,
    Heartbeat,
    Insert,
    JobInfo,
    JobRun,
    JobStatus,
    Purge,
    RunOutcome,
    Update,
)
from aether_bg.plugins.sqlite import changes, claims, files, retention, schema
from aether_bg.plugins.sqlite.columns import RUN_COLUMNS
from aether_bg.plugins.sqlite.guard import Guard
from aether_bg.plugins.sqlite.rows import read_run
from aether_bg.schedule import Schedule, parse

NOW = datetime(2030, 1, 1, 11, 59, 30, tzinfo=UTC)
BY = "tests"
CAP = results.LEAST_CRASHES
FIELDS = {field.name for field in attrs.fields(Change)}
INSTANT = timedelta(microseconds=1)
"""No two moves happen at the same time."""
SCHEDULES = ("@once", "@every 10s", "* * * * *", "@hourly", "@every day at 12:00")
OPEN_RUNS = "SELECT token, owner FROM aether_runs WHERE outcome IS NULL"
COMPLETED_TWICE = (
    "SELECT occurrence, count(*) FROM aether_runs WHERE outcome = 'completed' "
    "GROUP BY job_id, occurrence HAVING count(*) > 1"
)

parsed: Callable[[str], Schedule] = cache(parse)


def plan_of(job: JobInfo | Definition) -> Plan:
    return Plan.of(parsed(job.expression_value), job)


def a_job(schedule: str, now: datetime, **options: Any) -> JobInfo:
    """A row as `enqueue` makes it."""
    anchor = anchor_for(parsed(schedule), now, options.get("start"))
    job = JobInfo(
        id=uuid4(), handler_name="work", job_name="the job", expression_value=schedule, created_at=now,
        modified_at=now, anchor=anchor, **options,
    )  # fmt: skip
    first = plan_of(job).first()
    due = None if first is None else first + plan_of(job).lag(first, job.job_name)
    return attrs.evolve(job, due_at=due, occurrence=first)


def redefined(job: JobInfo, schedule: str, now: datetime) -> Definition:
    """The definition that `update` gives."""
    same = {field.name: getattr(job, field.name) for field in attrs.fields(Definition)}
    repeats = job.repeats if parsed(schedule).recurring else None
    return Definition(**same | {"expression_value": schedule, "start": None, "anchor": now, "repeats": repeats})


class Bench:
    """A migrated file with one owner, and one job in it."""

    job_id: UUID

    def __init__(self, path: Path) -> None:
        self.conn = files.connect(path, like=path.parent)
        self.conn.execute("PRAGMA synchronous = OFF")  # no power is lost here
        schema.migrate(self.conn, path)
        self.guard = Guard(self.conn)
        self.owner = uuid4()
        beat = Heartbeat(owner=self.owner, handlers=("work",), now=NOW, interval=5, keep_for=150, join=True)
        self.within(lambda: claims.join(self.conn, beat))

    def within(self, run: Callable[[], Any]) -> Any:
        """In one transaction, as the writer does it."""
        self.conn.execute("BEGIN IMMEDIATE")
        try:
            result = run()
        except BaseException:
            self.conn.execute("ROLLBACK")
            raise
        self.conn.execute("COMMIT")
        return result

    def add(self, job: JobInfo) -> JobInfo:
        self.within(lambda: changes.transact(self.conn, [Insert(job)], self.guard))
        self.job_id = job.id
        return self.row()

    def save(self, change: Change | None) -> JobInfo:
        assert change is not None
        self.within(lambda: changes.transact(self.conn, [Update(change)], self.guard))
        return self.row()

    def claim(self, now: datetime, *, seq: int | None = None) -> JobInfo | None:
        """By its handler, or with `seq` exactly."""
        exactly = {} if seq is None else {"job_id": self.job_id, "seq": seq}
        wanted = Claim(owner=self.owner, now=now, limit=10, handlers=("work",), **exactly)  # type: ignore[arg-type]
        taken = self.within(lambda: claims.claim(self.conn, wanted))[0].read(wanted)
        assert len(taken) <= 1, "C1: one row was claimed twice"
        return taken[0] if taken else None

    def row(self) -> JobInfo:
        found = changes.one_job(self.conn, changes.ROW, str(self.job_id))
        assert found is not None
        return found

    def runs(self, *outcomes: RunOutcome) -> list[JobRun]:
        columns = ", ".join(RUN_COLUMNS)
        rows = self.conn.execute(
            f"SELECT {columns} FROM aether_runs WHERE job_id = ? ORDER BY token, gap", [str(self.job_id)]
        )
        return [run for run in map(read_run, rows) if not outcomes or run.outcome in outcomes]

    def dump(self) -> list[Any]:
        return [self.conn.execute(f"SELECT * FROM {table}").fetchall() for table in ("aether_jobs", "aether_runs")]

    def run_due(self, now: datetime, ending: Callable[[], results.Result] = results.Completed) -> list[datetime | None]:
        """Claim, judge and end whatever is due at `now`; the occurrences that ran."""
        ran = []
        while (job := self.claim(now)) is not None:
            missed = transitions.misfired(job, plan_of(job), Moment(now, BY))
            if missed is None:
                ran.append(job.occurrence)
            self.save(missed or transitions.finish(job, ending(), plan_of(job), Moment(now, BY)))
        return ran


# -- any order of moves ----------------------------------------------------------------------------


@cache
def migrated() -> bytes:
    """An empty jobs database, made once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "jobs.db"
        conn = files.connect(path, like=path.parent)
        try:
            schema.migrate(conn, path)
        finally:
            conn.close()
        return path.read_bytes()


seconds = st.sampled_from([0, 0.5, 1, 9, 10, 11, 30, 60, 61, 300, 3600])
reach = seconds.map(lambda value: timedelta(seconds=value))
jobs_wanted = st.fixed_dictionaries(
    {
        "schedule": st.sampled_from(SCHEDULES),
        "misfire": st.sampled_from(["once", "skip", "all"]),
        "misfire_grace": st.sampled_from([0.0, 10.0]),
        "jitter": st.sampled_from([0.0, 0.0, 7.5, 3600.0]),
        "repeats": st.sampled_from([None, None, 1, 2, 3]),
        "start": st.sampled_from([None, None, NOW + timedelta(seconds=45)]),
        "until": st.sampled_from([None, None, None, NOW + timedelta(hours=3)]),
    }
)
ENDINGS = ("completed", "completed", "completed", "failed", "retried", "snoozed", "released", "unbegun", "lost")


class Moves(RuleBasedStateMachine):
    """`now` only moves forward. Every move is computed as the kernel does it, and saved in a transaction."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        path = self.folder / "jobs.db"
        path.write_bytes(migrated())
        path.chmod(0o600)
        self.bench = Bench(path)
        self.now = NOW

    def teardown(self) -> None:
        self.bench.conn.close()
        shutil.rmtree(self.folder)

    @initialize(wanted=jobs_wanted)
    def enqueue(self, wanted: dict[str, Any]) -> None:
        options = dict(wanted)
        name = options.pop("schedule")
        if not parsed(name).recurring:
            options["repeats"] = None
        job = a_job(name, self.now, **options)
        if job.due_at is None:
            job = a_job(name, self.now, **options | {"until": None, "start": None})
        self.job = self.bench.add(job)
        self.old: list[JobInfo] = []

    # -- the moves -------------------------------------------------------------------------------

    @rule(step=reach)
    def time_passes(self, step: timedelta) -> None:
        self.now += step

    @rule()
    def time_comes(self) -> None:
        """The row is due, to the instant."""
        if self.job.due_at is not None:
            self.now = max(self.now, self.job.due_at)

    @rule(exactly=st.booleans(), dies=st.sampled_from([False, False, False, True]))
    def claim(self, exactly: bool, dies: bool) -> None:
        job, now = self.job, self.now
        can = job.status is JobStatus.SCHEDULED and job.due_at is not None and job.due_at <= now
        can = can and (not job.paused or job.manual)
        taken = self.bench.claim(now, seq=job.seq if exactly else None)
        rule_ = "U4: a paused job, not triggered, was claimed" if job.paused and not job.manual else "C1: what is taken"
        assert (taken is not None) == can, rule_
        if taken is None:
            self.moved("claim")
            return
        assert taken.seq == job.seq + 1, "C1: the claim makes the token"
        assert taken.attempt == job.attempt + 1, "C1: the claim begins an attempt"
        assert not taken.manual, "U3: the claim clears `manual`"
        assert (taken.off_schedule, taken.occurrence) == (job.off_schedule, job.occurrence), (
            "U3: the claim keeps what is to run"
        )
        self.moved("claim")
        if dies:
            lost = results.Lost("killed", now, CAP)
            self.apply("lost", lambda row: transitions.finish(row, lost, plan_of(row), Moment(now, BY)))
            return
        missed = transitions.misfired(taken, plan_of(taken), Moment(now, BY))
        if missed is not None:
            assert taken.attempt == 1, "R2: misfire never applies after the first attempt"
            recurring = plan_of(taken).schedule.recurring
            assert recurring or taken.misfire == "skip", "R2: a one-shot without an end runs however late"
            assert not taken.off_schedule, "U3: an extra run is never late"
            assert sum(run.gap == 0 for run in missed.runs) == len(missed.runs) == 1, "R2: a gap is one row"
            self.apply("misfired", lambda _: missed)

    @precondition(lambda self: self.job.status is JobStatus.RUNNING)
    @rule(kind=st.sampled_from(ENDINGS), later=reach)
    def finish(self, kind: str, later: timedelta) -> None:
        ending = self.ending(kind, later)
        job = self.job
        self.apply(kind, lambda row: transitions.finish(row, ending, plan_of(row), Moment(self.now, BY)))
        if job.off_schedule:
            assert self.job.occurrences == job.occurrences, "U3: an extra run moved `occurrences`"
            if self.job.last_occurrence != job.last_occurrence:
                gaps = [run.last_occurrence for run in self.bench.runs() if run.token == job.seq and run.gap]
                assert gaps[-1] == self.job.last_occurrence, "U3: an extra run moved `last_occurrence`"
        if kind == "completed":
            assert self.job.crash_count == 0, "R3: the counter is kept until a success"

    @rule(name=st.sampled_from(SCHEDULES))
    def update(self, name: str) -> None:
        definition = redefined(self.job, name, self.now)
        if plan_of(definition).first() is None or self.supersedes_the_last(definition):
            return  # `update` refuses a schedule without an occurrence
        legal = not self.job.status.terminal
        plan = plan_of(definition)
        self.apply(
            "update", lambda row: commands.update(row, definition, plan, plan_of(row), Moment(self.now, BY)), legal
        )

    def supersedes_the_last(self, definition: Definition) -> bool:
        """The waiting retry that `update` closes is of the last occurrence that `repeats` allows."""
        job = self.job
        waits = job.status is JobStatus.SCHEDULED and job.attempt > 0 and not job.off_schedule
        return waits and definition.repeats is not None and job.occurrences + 1 >= definition.repeats

    @rule()
    def cancel(self) -> None:
        self.apply("cancel", lambda row: commands.cancel(row, Moment(self.now, BY)))

    @rule()
    def pause(self) -> None:
        self.apply("pause", lambda row: commands.pause(row, Moment(self.now, BY)), not self.job.status.terminal)

    @rule()
    def resume(self) -> None:
        legal = not self.job.status.terminal
        self.apply("resume", lambda row: commands.resume(row, plan_of(row), Moment(self.now, BY)), legal)

    @rule()
    def trigger(self) -> None:
        job = self.job
        legal = not job.status.terminal and (job.status is JobStatus.SCHEDULED or plan_of(job).schedule.recurring)
        self.apply("trigger", lambda row: commands.trigger(row, plan_of(row), Moment(self.now, BY)), legal)

    @rule()
    def retry(self) -> None:
        job, plan = self.job, plan_of(self.job)
        legal = job.status in (JobStatus.FAILED, JobStatus.CANCELLED)
        if legal and plan.schedule.recurring:
            legal = plan.after(self.now) is not None and (plan.repeats is None or job.occurrences < plan.repeats)
        self.apply("retry", lambda row: commands.retry(row, plan_of(row), Moment(self.now, BY)), legal)

    @rule(status=st.sampled_from(list(JobStatus)), later=reach)
    def settle(self, status: JobStatus, later: timedelta) -> None:
        legal = status.terminal and not self.job.status.terminal
        move: Callable[[JobInfo], Change] = lambda row: commands.settle(  # noqa: E731
            row, status, self.now - later, "by hand", Moment(self.now, BY)
        )
        self.apply("settle", move, legal)

    @precondition(lambda self: self.job.status is JobStatus.SCHEDULED)
    @rule(back=reach)
    def set_back(self, back: timedelta) -> None:
        """The kernel's wall clock shows an earlier time for a moment."""
        job, shows = self.job, self.now - back
        self.apply("adjust", lambda row: adjustments.adjust(row, plan_of(row), shows))
        if self.job.seq != job.seq:
            assert job.due_at is not None
            assert self.job.due_at is not None
            assert self.job.due_at < job.due_at, "R5: it waits for no longer than before"
            if job.attempt and job.handled_time is not None:
                meant = max(job.due_at - job.handled_time, timedelta(0))
                assert self.job.due_at - shows <= meant, "R4: a retry waits longer than was meant"

    @precondition(lambda self: self.job.status is JobStatus.COMPLETED)
    @rule(wanted=jobs_wanted)
    def enqueued_again(self, wanted: dict[str, Any]) -> None:
        assert self.bench.within(lambda: retention.purge(self.bench.conn, Purge())) == 1, "N5: terminal rows are purged"
        assert self.bench.runs() == [], "N5: history goes with its job"
        self.enqueue(wanted)

    @precondition(lambda self: any(old.status is JobStatus.RUNNING for old in self.old))
    @rule(data=st.data(), kind=st.sampled_from(ENDINGS))
    def late_outcome(self, data: st.DataObject, kind: str) -> None:
        """An attempt that lost its token ends: it must find out, and leave no trace."""
        stale = data.draw(st.sampled_from([old for old in self.old if old.status is JobStatus.RUNNING]), label="row")
        self.refused(transitions.finish(stale, self.ending(kind, timedelta(0)), plan_of(stale), Moment(self.now, BY)))

    @precondition(lambda self: any(not old.status.terminal for old in self.old))
    @rule(data=st.data())
    def late_cancel(self, data: st.DataObject) -> None:
        stale = data.draw(st.sampled_from([old for old in self.old if not old.status.terminal]), label="row")
        change = commands.cancel(stale, Moment(self.now, BY))
        assert change is not None
        self.refused(change)

    @precondition(lambda self: any(old.seq != self.job.seq for old in self.old))
    @rule(data=st.data())
    def late_trigger(self, data: st.DataObject) -> None:
        """A trigger that carries an old seq comes late."""
        seq = data.draw(st.sampled_from([old.seq for old in self.old if old.seq != self.job.seq]), label="seq")
        before = self.bench.dump()
        assert self.bench.claim(self.now, seq=seq) is None, "C1: an old trigger claimed the row"
        assert self.bench.dump() == before, "C1: an old trigger changed the row"

    # -- how they are carried out -----------------------------------------------------------------

    def ending(self, kind: str, later: timedelta) -> results.Result:
        return {
            "completed": results.Completed(),
            "failed": results.Failed("boom"),
            "retried": results.Failed("boom", RunOutcome.TIMED_OUT, self.now + later),
            "snoozed": results.Snoozed(self.now + later),
            "released": results.Released(begun=True),
            "unbegun": results.Released(begun=False),
            "lost": results.Lost("killed", self.now + later, CAP),
        }[kind]

    def apply(self, kind: str, move: Callable[[JobInfo], Change | None], legal: bool = True) -> None:
        try:
            change = move(self.job)
        except InvalidTransition:
            assert not legal, f"U: {kind} of a {self.job.status.name} job is refused"
            return
        assert legal, f"U: {kind} of a {self.job.status.name} job is not refused"
        if change is not None:
            whole = change.rest() if isinstance(change, Completion) else change
            assert set(vars(whole)) == FIELDS, f"{kind} leaves out fields, or makes some up"
            assert all(vars(change).get(name, value) == value for name, value in vars(whole).items())
            self.bench.save(change)
        self.moved(kind)

    def refused(self, change: Change) -> None:
        conn, before = self.bench.conn, self.bench.dump()
        conn.execute("BEGIN IMMEDIATE")
        try:
            with pytest.raises(Stale) as caught:
                changes.transact(conn, [Update(change)], self.bench.guard)
            assert self.bench.dump() == before, "C1: a stale write left a trace before the rollback"
        finally:
            conn.execute("ROLLBACK")
        assert caught.value.current in (None, self.job), "C1: a stale write gets the row as it is"
        assert self.bench.dump() == before, "C1: a stale write changed something"

    def moved(self, kind: str) -> None:
        """From the row known to the row in the file: was that a move the protocol allows?"""
        was, job = self.job, self.bench.row()
        step = job.seq - was.seq
        assert step in (0, 1), f"C1: seq moved by {step} in one {kind}"
        assert job.schedule_rev - was.schedule_rev in (0, 1), f"U1: schedule_rev moved oddly in one {kind}"
        waiting = was.status is job.status is JobStatus.SCHEDULED
        must = was.status is not job.status or (waiting and (was.due_at, was.paused) != (job.due_at, job.paused))
        may = must or (waiting and kind in ("update", "trigger"))  # due again at the very instant
        assert step or not must, f"C1: {kind} changed status, due instant or pause, and seq stands"
        assert may or not step, f"C1: {kind} moved seq without a cause"
        if was.status is job.status is JobStatus.RUNNING:
            columns = ("paused", "trigger_pending", "expression_value", "anchor")
            if any(getattr(was, name) != getattr(job, name) for name in columns):
                assert job.schedule_rev == was.schedule_rev + 1, f"C1: {kind} while RUNNING raises schedule_rev"
            same = ("seq", "owner", "attempt", "due_at", "occurrence", "last_occurrence", "occurrences", "started_at")
            for name in same:
                if name == "last_occurrence" and kind == "resume":
                    continue  # what passed while it was paused is closed beside the run: it may grow, as below
                assert getattr(was, name) == getattr(job, name), f"C1: {kind} while RUNNING moved {name}"
        if kind == "update":
            assert job.schedule_rev == was.schedule_rev + (was.status is JobStatus.RUNNING or step), "U1: schedule_rev"
        if was.last_occurrence is not None:
            assert job.last_occurrence is not None, f"C4: {kind} forgot last_occurrence"
            assert job.last_occurrence >= was.last_occurrence, f"C4: {kind} moved last_occurrence back"
        if was.status.terminal and job.status is not was.status:
            assert kind == "retry", f"U5: {kind} left {was.status.name}"
            assert job.status is JobStatus.SCHEDULED, "U5: retry leads to SCHEDULED"
        assert job.occurrences - was.occurrences in (0, 1), f"R2: {kind} counted more than one occurrence"
        if (job.seq, job.schedule_rev) != (was.seq, was.schedule_rev):
            self.old = [*self.old[-7:], was]
            self.now += INSTANT
        self.job = job

    # -- what is always so ------------------------------------------------------------------------

    @invariant()
    def sound(self) -> None:
        job = self.job
        stands = job.status
        assert self.bench.row() == job, "C1: the row moved behind its back"
        assert (job.due_at is None) == stands.terminal, "C3: a job has a due instant unless it is terminal"
        if stands is JobStatus.SCHEDULED:
            assert job.due_at is not None, "C3: what waits is due at some time"
            assert job.occurrence is not None, "C3: what waits has an occurrence"
        open_runs = self.bench.conn.execute(OPEN_RUNS).fetchall()
        if stands is JobStatus.RUNNING:
            assert job.owner == self.bench.owner, "C1: what runs has an owner"
            assert open_runs == [(job.seq, str(job.owner))], "C1: the open attempt is the token's, and the only one"
        else:
            assert job.owner is None, "C1: only what runs has an owner"
            assert open_runs == [], "C6: the transaction that ends an attempt closes its history row"
        assert self.bench.conn.execute(COMPLETED_TWICE).fetchall() == [], "C6: an occurrence completed twice"
        if job.repeats is not None:
            assert job.occurrences <= job.repeats, "R2: more occurrences than `repeats`"


Moves.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.timeout(600)  # a failing example takes its time to be made small
class TestMoves(Moves.TestCase):  # type: ignore[misc]
    @pytest.fixture(autouse=True)
    def more(self, request: pytest.FixtureRequest) -> None:
        if request.config.getoption("--thorough"):
            type(self).settings = settings(self.settings, max_examples=120)


# -- examples --------------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "jobs.db")
    yield made
    made.conn.close()


def at(clock: str, day: int = 1) -> datetime:
    return datetime.fromisoformat(f"2030-01-{day:02}T{clock}+00:00")


def minutes(first: datetime, count: int) -> list[datetime]:
    return [first + timedelta(minutes=n) for n in range(count)]


def crash(bench: Bench, now: datetime, retries: int) -> JobInfo:
    job = bench.claim(now)
    assert job is not None
    lost = results.Lost("killed", now, max(retries, results.LEAST_CRASHES))
    return bench.save(transitions.finish(job, lost, plan_of(job), Moment(now, BY)))


@pytest.mark.parametrize(
    ("misfire", "ran", "outcome", "gap"),
    [
        ("skip", [], RunOutcome.SKIPPED, (at("12:01:00"), at("13:00:00"), 60)),
        ("once", [at("13:00:00")], RunOutcome.COALESCED, (at("12:01:00"), at("12:59:00"), 59)),
        ("all", minutes(at("12:01:00"), 60), None, None),
    ],
)
def test_a_minutely_job_down_for_an_hour_runs_0_1_or_60_times(
    bench: Bench, misfire: Any, ran: list[datetime], outcome: RunOutcome | None, gap: Any
) -> None:
    """docs/protocol.md, R2: back 30 s after a tick."""
    bench.add(a_job("* * * * *", NOW, misfire=misfire))
    assert bench.run_due(at("12:00:00")) == [at("12:00:00")]
    assert bench.run_due(at("13:00:30")) == ran
    job = bench.row()
    assert job.due_at == job.occurrence == at("13:01:00")
    assert job.last_occurrence == at("13:00:00")
    assert job.occurrences == 1 + len(ran)
    gaps = [run for run in bench.runs() if run.outcome is not RunOutcome.COMPLETED]
    assert [(run.outcome, run.occurrence, run.last_occurrence, run.count) for run in gaps] == (
        [(outcome, *gap)] if outcome else []
    )
    assert bench.run_due(at("13:01:00")) == [at("13:01:00")]


def test_all_makes_up_for_the_newest_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/protocol.md, R2: the newest thousand, here a hundred, oldest first; what is given up is one row."""
    assert KEPT == 1000
    monkeypatch.setattr(transitions, "KEPT", 100)
    bench.add(a_job("@every 10s", at("12:00:00"), misfire="all"))
    assert bench.run_due(at("12:00:10")) == [at("12:00:10")]
    ticks = [at("12:00:10") + timedelta(seconds=10 * n) for n in range(1, 151)]
    assert bench.run_due(ticks[-1] + timedelta(seconds=5)) == ticks[50:]
    (gap,) = bench.runs(RunOutcome.SKIPPED)
    assert (gap.occurrence, gap.count) == (ticks[0], 50)


def test_what_passed_during_a_run_is_one_row_but_for_the_newest(bench: Bench) -> None:
    """docs/protocol.md, C4."""
    bench.add(a_job("* * * * *", NOW))
    job = bench.claim(at("12:00:00"))
    assert job is not None
    after = bench.save(transitions.finish(job, results.Completed(), plan_of(job), Moment(at("12:05:30"), BY)))
    assert (after.occurrence, after.last_occurrence) == (at("12:05:00"), at("12:04:00"))
    (gap,) = bench.runs(RunOutcome.OVERLAPPED)
    assert (gap.occurrence, gap.last_occurrence, gap.count) == (at("12:01:00"), at("12:04:00"), 4)


def test_what_a_pause_held_back_is_one_row(bench: Bench) -> None:
    """docs/protocol.md, U4."""
    job = bench.add(a_job("* * * * *", NOW, misfire="all"))
    job = bench.save(commands.pause(job, Moment(NOW, BY)))
    assert bench.run_due(at("12:30:30")) == []
    job = bench.save(commands.resume(job, plan_of(job), Moment(at("12:30:30"), BY)))
    (gap,) = bench.runs(RunOutcome.SKIPPED)
    assert (gap.occurrence, gap.last_occurrence, gap.count) == (at("12:00:00"), at("12:30:00"), 31)
    assert job.due_at == at("12:31:00")


@pytest.mark.parametrize(("retries", "cap"), [(0, 5), (3, 5), (8, 8)])
def test_a_one_shot_fails_at_its_cap_of_crashes(bench: Bench, retries: int, cap: int) -> None:
    """docs/protocol.md, R3: counted apart from `retries`."""
    bench.add(a_job("@once", NOW))
    for crashes in range(1, cap):
        job = crash(bench, NOW, retries)
        assert (job.status, job.crash_count, job.retry_count) == (JobStatus.SCHEDULED, crashes, 0)
    job = crash(bench, NOW, retries)
    assert (job.status, job.crash_count, job.last_error) == (JobStatus.FAILED, cap, "killed")
    assert len(bench.runs(RunOutcome.CRASHED)) == cap
    assert bench.claim(NOW + timedelta(days=1)) is None


@pytest.mark.parametrize(("retries", "cap"), [(0, 5), (6, 6)])
def test_a_recurring_job_gives_up_the_occurrence_then_itself(bench: Bench, retries: int, cap: int) -> None:
    """docs/protocol.md, R3: at the cap the occurrence ends, the counter stays; FAILED at twice the cap."""
    bench.add(a_job("* * * * *", NOW))
    for _ in range(cap - 1):
        assert crash(bench, at("12:00:00"), retries).occurrence == at("12:00:00")
    job = crash(bench, at("12:00:00"), retries)
    assert (job.status, job.occurrence, job.crash_count) == (JobStatus.SCHEDULED, at("12:01:00"), cap)
    assert (job.last_occurrence, job.occurrences, job.attempt) == (at("12:00:00"), 1, 0)
    for crashes in range(cap + 1, 2 * cap):
        assert job.due_at is not None
        job = crash(bench, job.due_at, retries)
        assert (job.status, job.crash_count) == (JobStatus.SCHEDULED, crashes)
    assert job.due_at is not None
    job = crash(bench, job.due_at, retries)
    assert (job.status, job.crash_count) == (JobStatus.FAILED, 2 * cap)


def test_a_success_resets_the_count_of_crashes(bench: Bench) -> None:
    """docs/protocol.md, R3."""
    bench.add(a_job("* * * * *", NOW))
    for _ in range(4):
        crash(bench, at("12:00:00"), 0)
    assert bench.run_due(at("12:00:01")) == [at("12:00:00")]
    assert bench.row().crash_count == 0
    for _ in range(4):
        assert crash(bench, at("12:01:00"), 0).occurrence == at("12:01:00")


def test_a_failure_does_not_reset_the_count_of_crashes(bench: Bench) -> None:
    """docs/protocol.md, R3: kept until a success."""
    bench.add(a_job("* * * * *", NOW))
    crash(bench, at("12:00:00"), 0)
    assert bench.run_due(at("12:00:01"), lambda: results.Failed("boom")) == [at("12:00:00")]
    assert bench.row().crash_count == 1


def test_triggered_while_running_it_runs_once_more(bench: Bench) -> None:
    """docs/protocol.md, U3, C1: the trigger moves schedule_rev only, the extra run neither count nor occurrence."""
    bench.add(a_job("@hourly", NOW))
    running = bench.claim(at("12:00:00"))
    assert running is not None
    asked = bench.save(commands.trigger(running, plan_of(running), Moment(at("12:00:01"), BY)))
    assert (asked.seq, asked.schedule_rev, asked.trigger_pending) == (running.seq, running.schedule_rev + 1, True)
    assert commands.trigger(asked, plan_of(asked), Moment(at("12:00:02"), BY)) is None
    blind = transitions.finish(running, results.Completed(), plan_of(running), Moment(at("12:00:05"), BY))
    with pytest.raises(Stale):
        bench.save(blind)
    job = bench.save(transitions.finish(asked, results.Completed(), plan_of(asked), Moment(at("12:00:05"), BY)))
    assert (job.status, job.due_at, job.manual, job.off_schedule) == (JobStatus.SCHEDULED, at("12:00:05"), True, True)
    assert (job.last_occurrence, job.occurrences, job.trigger_pending) == (at("12:00:00"), 1, False)
    assert bench.run_due(at("12:00:06")) == [at("12:00:05")]
    job = bench.row()
    assert (job.due_at, job.last_occurrence, job.occurrences) == (at("13:00:00"), at("12:00:00"), 1)
    assert not job.off_schedule
    assert [run.occurrence for run in bench.runs(RunOutcome.COMPLETED)] == [at("12:00:00"), at("12:00:05")]


def test_the_last_occurrence_still_runs_once_more(bench: Bench) -> None:
    """docs/protocol.md, U3: `repeats` is not moved by it."""
    bench.add(a_job("@hourly", NOW, repeats=1))
    running = bench.claim(at("12:00:00"))
    assert running is not None
    asked = bench.save(commands.trigger(running, plan_of(running), Moment(at("12:00:01"), BY)))
    bench.save(transitions.finish(asked, results.Completed(), plan_of(asked), Moment(at("12:00:05"), BY)))
    assert bench.run_due(at("12:00:06")) == [at("12:00:05")]
    assert (bench.row().status, bench.row().occurrences) == (JobStatus.COMPLETED, 1)


def test_a_running_one_shot_cannot_be_triggered(bench: Bench) -> None:
    """docs/protocol.md, U3."""
    bench.add(a_job("@once", NOW))
    running = bench.claim(NOW)
    assert running is not None
    with pytest.raises(InvalidTransition):
        commands.trigger(running, plan_of(running), Moment(NOW, BY))


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_one_shot_is_retried_now_with_counters_zero(bench: Bench, end: str) -> None:
    """docs/protocol.md, U5."""
    job = bench.add(a_job("@once", NOW))
    crash(bench, NOW, 0)
    if end == "failed":
        bench.run_due(NOW, lambda: results.Failed("boom"))
    else:
        bench.save(commands.cancel(bench.row(), Moment(NOW, BY)))
        assert not bench.row().holds_name
    ended = bench.row()
    later = NOW + timedelta(hours=1)
    job = bench.save(commands.retry(ended, plan_of(ended), Moment(later, BY)))
    assert (job.status, job.due_at, job.seq) == (JobStatus.SCHEDULED, later, ended.seq + 1)
    assert (job.attempt, job.retry_count, job.crash_count, job.last_error) == (0, 0, 0, None)
    assert job.holds_name
    assert len(bench.run_due(later)) == 1
    assert bench.row().status is JobStatus.COMPLETED
    with pytest.raises(InvalidTransition):
        commands.retry(bench.row(), plan_of(bench.row()), Moment(later, BY))


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_recurring_job_is_retried_at_its_next_occurrence(bench: Bench, end: str) -> None:
    """docs/protocol.md, U5: what passed meanwhile is not made up for."""
    bench.add(a_job("@hourly", NOW, misfire="all"))
    if end == "failed":
        for _ in range(2 * CAP):
            job = bench.row()
            assert job.due_at is not None
            crash(bench, job.due_at, 0)
    else:
        bench.save(commands.cancel(bench.row(), Moment(NOW, BY)))
    ended = bench.row()
    assert ended.status is (JobStatus.FAILED if end == "failed" else JobStatus.CANCELLED)
    job = bench.save(commands.retry(ended, plan_of(ended), Moment(at("07:10:00", day=2), BY)))
    assert (job.status, job.due_at, job.occurrence) == (JobStatus.SCHEDULED, at("08:00:00", 2), at("08:00:00", 2))
    assert (job.attempt, job.crash_count) == (0, 0)
    assert bench.run_due(at("08:00:00", day=2)) == [at("08:00:00", day=2)]


def test_a_retry_whose_name_is_taken_is_refused(bench: Bench) -> None:
    """docs/protocol.md, U5, N1."""
    first = bench.add(a_job("@once", NOW))
    first = bench.save(commands.cancel(first, Moment(NOW, BY)))
    other = bench.add(a_job("@once", NOW))
    before = bench.dump()
    with pytest.raises(NameHeld) as caught:
        bench.save(commands.retry(first, plan_of(first), Moment(NOW, BY)))
    assert caught.value.current == other
    assert bench.dump() == before
