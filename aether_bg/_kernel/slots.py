"""Counts the attempts that run here now, and how many more may run. No other part counts them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from uuid import UUID

from aether_bg._kernel.attempt import Attempt
from aether_bg._kernel.tasks import Signal
from aether_bg.model import CancelReason, JobInfo


class Slots:
    """`wake`: called when a job that may crash its process has ended, and the next one may start."""

    def __init__(self, concurrency: int, wake: Callable[[], object], begins: Callable[[], object] = bool) -> None:
        self.concurrency, self._wake, self._begins = concurrency, wake, begins
        self.running: dict[UUID, Attempt] = {}
        self.recording: set[UUID] = set()
        """Jobs whose outcome has not been committed yet."""
        self.started = 0
        """Attempts ever begun."""
        self.suspect = False
        """A job that has crashed before is running: no second one may run at the same time (docs/protocol.md, R3)."""
        self.kinds = Counter[str]()
        """How many of `running` and `reserved` belong to each handler."""
        self.kept = concurrency // 4
        """Slots that are kept for handlers of which no job runs here (docs/protocol.md, L4)."""
        self.short = False
        """Jobs wait for another one to end, although slots are free: look again then (docs/protocol.md, L2)."""
        self.reserved = 0
        """Slots kept for triggers whose claim is in progress."""
        self.freed = Signal()
        self.begun = threading.Event()
        """Set when an attempt begins and none ran, for a thread that waits for it."""

    @property
    def free(self) -> int:
        """Outcomes that are not committed yet hold some slots, so that a store in trouble slows down the claims."""
        running, most = len(self.running) + self.reserved, self.concurrency
        return min(most - running, 2 * most - running - len(self.recording))

    @property
    def busy(self) -> bool:
        return bool(self.running or self.recording)

    def reserve(self, job: JobInfo) -> None:
        """Keeps a slot for the claim of this job, which is in progress."""
        self.reserved += 1
        self.kinds[job.handler_name] += 1
        self.suspect |= job.suspect

    def unreserve(self, job: JobInfo, taken: bool) -> None:
        """The claim is over, whether it took the job or not."""
        self.reserved -= 1
        self._less(job)
        if job.suspect and not taken:
            self.suspect = False

    def begin(self, attempt: Attempt) -> Attempt | None:
        """Returns the attempt of the same job that has not ended here yet, if there is one."""
        job = attempt.job
        if not self.running:
            if not self.begun.is_set():
                self.begun.set()
            self._begins()
        self.started += 1
        if job.suspect:
            self.suspect = True
        self.kinds[job.handler_name] += 1
        if (before := self.running.setdefault(job.id, attempt)) is attempt:
            return None
        self.running[job.id] = attempt
        self._less(before.job)
        return before

    def end(self, attempt: Attempt) -> None:
        """Its code no longer runs."""
        job = attempt.job
        if self.running.get(job.id) is attempt:
            del self.running[job.id]
            self._less(job)
        elif attempt.ended is not None:  # the next attempt of this job waits for it
            attempt.ended.set()

    def _less(self, job: JobInfo) -> None:
        kinds, name = self.kinds, job.handler_name
        if kinds[name] > 1:
            kinds[name] -= 1
        else:
            del kinds[name]

    def settle(self, job: JobInfo) -> None:
        """Its outcome is committed, or no longer counts: the next suspect may run (docs/protocol.md, R3)."""
        self.recording.discard(job.id)
        if job.suspect or self.short:
            self.suspect = self.suspect and not job.suspect
            self._wake()
        self.freed.set()

    def revoke(self, job_id: UUID) -> None:
        """A verb changed the row: the attempt here, if there is one, has lost its token (docs/protocol.md, U2)."""
        if attempt := self.running.get(job_id):
            attempt.revoke(CancelReason.DELETED)
