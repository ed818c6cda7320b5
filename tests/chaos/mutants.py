"""Stores and schedulers that break one rule each. The programme must catch every one of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import attrs

from aether_bg import JobInfo, SQLiteStore, hookimpl, schedule
from aether_bg.errors import Stale
from aether_bg.model import Claim, Claimed, JobStatus, Update, Write
from aether_bg.plugins.sqlite import claims
from aether_bg.plugins.sqlite.operations import Operation, Rank
from aether_bg.plugins.sqlite.transactions import Transactions
from aether_bg.protocols import Kernel
from chaos.plugins import Push, Watched

Moment = Callable[[str], object]


class NoTokenGuard(Watched):
    """Every outcome is accepted, without a look at its token (against C1, C6)."""

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel, stack: AsyncExitStack) -> None:
        await self.inner.lifecycle_start(kernel, stack)
        await self.inner._open().write(
            lambda conn: conn.execute("DROP INDEX IF EXISTS aether_runs_completed"), Rank.OTHER
        )

    @hookimpl
    async def store_transact(self, writes: Sequence[Write]) -> Sequence[object]:
        while True:
            try:
                return await self.inner.store_transact(writes)
            except Stale as stale:
                if stale.current is None:
                    raise
                writes = [_believed(write, stale.current) for write in writes]


def _believed(write: Write, current: JobInfo) -> Write:
    if not isinstance(write, Update) or write.change.job_id != current.id:
        return write
    return Update(
        attrs.evolve(
            write.change, seq=current.seq, schedule_rev=current.schedule_rev, next_seq=current.seq + 1,
            next_rev=current.schedule_rev,
        )
    )  # fmt: skip


class NoOwnerCheck(Watched):
    """Claims for owners that have been recovered (against P4)."""

    @hookimpl
    async def store_claim(self, claim: Claim) -> Claimed:
        def unchecked(conn: sqlite3.Connection) -> Any:
            row = [str(claim.owner)]
            known = conn.execute("SELECT 1 FROM aether_owners WHERE id = ?", row).fetchone()
            if not known:
                columns = "id, host, pid, started_at, beat, beat_at, handlers"
                conn.execute(f"INSERT INTO aether_owners ({columns}) VALUES (?, '', 0, '', 0, '', '[]')", row)
            try:
                return claims.claim(conn, claim)
            finally:
                if not known:
                    conn.execute("DELETE FROM aether_owners WHERE id = ?", row)

        taken, next_due, short = await self.inner._open().write(unchecked, Rank.OTHER)
        return Claimed(jobs=tuple(taken.read(claim)), next_due=next_due, short=short)


class ContinuesBrokenBatch(Watched):
    """Goes on after one operation took the whole transaction along (against W1)."""

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel, stack: AsyncExitStack) -> None:
        broken = Transactions._broken

        def going_on(transactions: Transactions, ran: list[Operation]) -> list[Operation]:
            return [transactions._settle(op) for op in ran]

        Transactions._broken = going_on  # type: ignore[method-assign]
        stack.callback(setattr, Transactions, "_broken", broken)
        await self.inner.lifecycle_start(kernel, stack)


class ArmsAtClaim(Watched):
    """Arms the next occurrence when one is claimed, and not when it has ended (against C3)."""

    def __init__(self, inner: SQLiteStore, moment: Moment = lambda _: None) -> None:
        super().__init__(inner, moment)
        armed: set[tuple[str, int]] = set()
        self.armed, arm = armed, Push.schedule_arm
        this = self

        class Early(Push):
            @hookimpl
            async def schedule_arm(self, job: JobInfo) -> bool:
                this.arm = lambda later: arm(self, later)
                return (str(job.id), job.seq) in armed or bool(await arm(self, job))

        self.scheduler = Early

    @hookimpl
    async def store_claim(self, claim: Claim) -> Claimed:
        claimed = await self.inner.store_claim(claim)
        for job in claimed.jobs:
            plan = schedule.load(job.expression_value, job.timezone)
            if plan.recurring and job.occurrence is not None:
                following = plan.next(job.occurrence, job.anchor) or job.occurrence + timedelta(days=1)
                await self.arm(
                    attrs.evolve(
                        job, status=JobStatus.SCHEDULED, seq=job.seq + 1, due_at=following, occurrence=following
                    )
                )
                self.armed.add((str(job.id), job.seq + 1))
        return claimed


MUTANTS: dict[str, Callable[[SQLiteStore, Moment], Any]] = {
    "no token guard": NoTokenGuard,
    "no owner check": NoOwnerCheck,
    "continues a broken batch": ContinuesBrokenBatch,
    "arms at claim": ArmsAtClaim,
}
