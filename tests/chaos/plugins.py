"""Plugins that only tests want: a store that can be interrupted at any moment, an observer that writes the history,
a scheduler that remembers what it was told, as an engine elsewhere would."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import anyio

from aether_bg import JobInfo, JobRun, hookimpl
from aether_bg.model import (
    Alive,
    Altered,
    Claim,
    Claimed,
    Ended,
    Event,
    FailureGroup,
    Failures,
    Fired,
    Heartbeat,
    JobStatus,
    Problem,
    Purge,
    Query,
    Ran,
    Recovered,
    Runs,
    Stats,
    Update,
    Write,
)
from aether_bg.plugins.sqlite import session, transactions
from aether_bg.protocols import Kernel
from chaos.history import History

MOMENTS = ("after claim", "mid-handler", "before commit", "in commit", "after commit", "before ack", "renewing")


class Watched:
    """A store that passes everything on to a `SQLiteStore`, and says so."""

    def __init__(self, inner: Any, moment: Callable[[str], object] = lambda _: None) -> None:
        self.inner, self.moment = inner, moment

    def __repr__(self) -> str:
        return f"<Watched {self.inner!r}>"

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel, stack: AsyncExitStack) -> None:
        await self.inner.lifecycle_start(kernel, stack)

    @hookimpl
    async def store_transact(self, writes: Sequence[Write]) -> Sequence[object]:
        outcome = any(isinstance(write, Update) and write.change.runs for write in writes)
        if outcome:
            self.moment("before commit")
        results = await self.inner.store_transact(writes)
        if outcome:
            self.moment("before ack")
        return results

    @hookimpl
    async def store_claim(self, claim: Claim) -> Claimed:
        claimed = await self.inner.store_claim(claim)
        if claimed.jobs:
            self.moment("after claim")
        return claimed

    @hookimpl
    async def store_heartbeat(self, beat: Heartbeat) -> Alive:
        return await self.inner.store_heartbeat(beat)

    @hookimpl
    async def store_find(self, query: Query) -> Sequence[JobInfo]:
        return await self.inner.store_find(query)

    @hookimpl
    async def store_history(self, job_id: UUID, limit: int) -> Sequence[JobRun]:
        return await self.inner.store_history(job_id, limit)

    @hookimpl
    async def store_runs(self, query: Runs) -> Sequence[Ran]:
        return await self.inner.store_runs(query)

    @hookimpl
    async def store_failures(self, query: Failures) -> Sequence[FailureGroup]:
        return await self.inner.store_failures(query)

    @hookimpl
    async def store_stats(self) -> Stats:
        return await self.inner.store_stats()

    @hookimpl
    async def store_purge(self, purge: Purge) -> int:
        return await self.inner.store_purge(purge)


class Failpoint:
    """Kills this process with SIGKILL at the n-th passing of one moment."""

    def __init__(self, moment: str, nth: int, history: History) -> None:
        assert moment in MOMENTS
        self.at, self.left, self.history = moment, nth, history
        self.install()

    def __call__(self, moment: str) -> None:
        if moment == self.at:
            self.left -= 1
            if self.left <= 0:
                self.die()

    def die(self) -> None:
        self.history.write("killed", moment=self.at)
        os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """The moments inside the writer thread have no hook: this process patches its own copy of the code."""
        if self.at == "renewing":
            renew = session._renew

            def renewing(conn: sqlite3.Connection, stopping: bool, owner: str) -> bool:
                renew(conn, stopping, owner)
                self("renewing")
                return True

            session._renew = renewing
        elif self.at in ("in commit", "after commit"):
            end = transactions.Transactions._end

            def ending(this: Any, ran: Any) -> Any:
                if self.at == "in commit":
                    self("in commit")  # every statement has run, COMMIT has not
                done = end(this, ran)
                self("after commit")
                return done

            transactions.Transactions._end = ending


class Observer:
    """Writes what `lifecycle_event` tells."""

    def __init__(self, history: History) -> None:
        self.history = history

    @hookimpl
    async def lifecycle_event(self, event: Event) -> None:
        match event:
            case Ended(context, run, status, due):
                self._run("ended", run, status.name, due, context.job.handler_name)
            case Recovered(job, run):
                self._run("recovered", run, "", None, job.handler_name)
            case Problem(part, error):
                self.history.write("problem", part=part, error=f"{type(error).__name__}: {error}"[:1000])
            case Altered(job, verb):
                self.history.write("altered", job=str(job.id), verb=verb, seq=job.seq, status=job.status.name)

    def _run(self, event: str, run: JobRun, status: str, due: datetime | None, handler: str) -> None:
        self.history.write(
            event, job=str(run.job_id), token=run.token, outcome=run.outcome and str(run.outcome), status=status,
            occurrence=text(run.occurrence), due=text(due), handler=handler,
        )  # fmt: skip


def text(when: datetime | None) -> str | None:
    """As the database writes it."""
    return None if when is None else when.astimezone(UTC).isoformat(timespec="microseconds")[:26] + "Z"


class Push:
    """A push scheduler with a durable memory of its own, as Dapr is one: `schedule_arm` writes there, a loop delivers
    at the due instant, again and again until the kernel takes it. Delivers old triggers too, when asked to."""

    def __init__(self, path: str, moment: Callable[[str], object] = lambda _: None, redeliver: float = 0.0) -> None:
        self.path, self.moment, self.redeliver = path, moment, redeliver
        self.delivered: list[tuple[str, int, str]] = []
        conn = self._connect()
        conn.execute(
            "CREATE TABLE IF NOT EXISTS armed "
            "(job TEXT, seq INTEGER, occurrence TEXT, due REAL, PRIMARY KEY (job, seq))"
        )
        conn.close()

    def _connect(self) -> sqlite3.Connection:
        conn = sqlite3.connect(self.path, isolation_level=None, timeout=30)
        conn.execute("PRAGMA journal_mode = WAL")
        return conn

    @hookimpl
    async def schedule_arm(self, job: JobInfo) -> bool:
        self.moment("arming")
        conn = self._connect()
        try:
            if job.status is JobStatus.SCHEDULED and (not job.paused or job.manual):
                assert job.due_at is not None
                row = [str(job.id), job.seq, text(job.occurrence or job.due_at), job.due_at.timestamp()]
                conn.execute("INSERT OR REPLACE INTO armed VALUES (?, ?, ?, ?)", row)
            else:
                conn.execute("DELETE FROM armed WHERE job = ? AND seq <= ?", [str(job.id), job.seq])
        finally:
            conn.close()
        self.moment("armed")
        return True

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        conn = self._connect()
        try:
            async with anyio.create_task_group() as group:
                while True:
                    now = datetime.now(UTC).timestamp()
                    due = conn.execute("SELECT job, seq, occurrence FROM armed WHERE due <= ?", [now]).fetchall()
                    for job, seq, occurrence in due:
                        group.start_soon(self._deliver, kernel, conn, job, seq, occurrence)
                    if due:
                        conn.execute("UPDATE armed SET due = ? WHERE due <= ?", [now + 0.5, now])
                    await anyio.sleep(0.02)
        finally:
            conn.close()

    async def _deliver(self, kernel: Kernel, conn: sqlite3.Connection, job: str, seq: int, occurrence: str) -> None:
        answer = await kernel.fire(kernel.store_id, UUID(job), seq, datetime.fromisoformat(occurrence))
        if answer is not Fired.RETRY:
            conn.execute("DELETE FROM armed WHERE job = ? AND seq = ?", [job, seq])


class Grip:
    """Takes hold of the kernel, for tests that call its doors themselves."""

    kernel: Kernel

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel) -> None:
        self.kernel = kernel


class Hook:
    """One hook as a plugin: `Hook(store_find=fn)`."""

    def __new__(cls, **hooks: Callable[..., Any]) -> Any:
        made = type("Hook", (), {name: hookimpl(fn) for name, fn in hooks.items()})
        return made()


Awaiting = Callable[..., Awaitable[Any]]
