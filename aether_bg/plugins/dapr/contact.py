"""Stays in contact with the sidecar: waits for it, notices when it goes and comes, compares after each return.

While it is away nothing is lost (rows wait in the store) and nothing is tried in vain: one probe asks, all other calls
are refused at once. It is back when it has *taken* a job, not when it answers: a scheduler whose database is full can
be read but takes no jobs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import anyio

from aether_bg.errors import SchedulerError, SchedulerMisconfigured, SchedulerUnavailable, StoreError
from aether_bg.model import JobInfo, JobStatus, Query
from aether_bg.plugins.dapr.door import Door
from aether_bg.plugins.dapr.names import PROBE, body_of, name_of, time_of, waits
from aether_bg.plugins.dapr.reconcile import Absent, absent_by_row, absent_from_list, reconcile
from aether_bg.plugins.dapr.settings import DaprSettings
from aether_bg.plugins.dapr.trouble import JobRefused
from aether_bg.protocols import Kernel

if TYPE_CHECKING:
    from aether_bg.plugins.dapr.sidecar import Sidecar

_log: Final = logging.getLogger("aether_bg.dapr")
_POLL: Final = 5.0
_AWAY_POLL: Final = 1.0
_REFUSED_POLL: Final = 30.0
"""The longest pause between two probes of a scheduler that answers but takes no jobs."""
_START_POLL: Final = 0.1
_SHARE: Final = 20
"""Comparing may take one part in this many of the time: a large store is compared less often."""
_PAST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SAMPLED: Final = 100


class Contact:
    """The plugin's connection to one sidecar. `away`: why calls are useless now; `unfit`: what is wrong with the
    sidecar."""

    def __init__(
        self,
        kernel: Kernel,
        settings: DaprSettings,
        sidecar: Sidecar,
        door: Door,
        misfit: Callable[[Any], SchedulerMisconfigured | None],
    ) -> None:
        self.away: SchedulerError | None = None
        self.away_since = 0.0
        """Monotonic seconds."""
        self.away_at: datetime | None = None
        self.unfit: SchedulerMisconfigured | None = None
        self.unlisted: SchedulerError | None = None
        """Why Dapr's jobs cannot be listed."""
        self._kernel, self._settings, self._sidecar, self._door = kernel, settings, sidecar, door
        self._misfit = misfit
        self._nudge = anyio.Event()
        self._pause = _AWAY_POLL
        self._said: set[str] = set()
        """What has been reported of this outage."""
        self._sample: JobInfo | None = None
        """A row that Dapr held at the last check."""

    @property
    def trouble(self) -> SchedulerError | None:
        return self.away or self.unfit

    async def begin(self) -> None:
        """Waits for the sidecar, within bounds, and checks whether it fits; goes on without it unless it is required.

        Only its API must answer: the other parts of a sidecar wait for the app in turn.
        """
        end = time.monotonic() + self._settings.wait
        while True:
            try:
                metadata = await self._sidecar.metadata()
                break
            except SchedulerMisconfigured:
                raise
            except SchedulerError as error:
                if time.monotonic() >= end:
                    if self._settings.required:
                        raise
                    return self.lost(error)
            await anyio.sleep(_START_POLL)
        if wrong := self._misfit(metadata):
            raise wrong
        app = metadata.app_connection_properties
        what = (metadata.runtime_version, metadata.id, app.protocol, app.port)
        return _log.info("Dapr %s, app %s: triggers over %s to port %d.", *what)

    async def arm(self, job: JobInfo) -> None:
        """Makes Dapr hold the row's present seq, if the row waits, and forget the one that was marked as armed.

        A name armed but never marked (the row changed in between) is left to `reconcile`, or to its stale trigger.
        """
        if waits(job):
            await self._hold(job)
        if job.armed_seq >= 0 and (job.armed_seq != job.seq or not waits(job)):
            await self._forget(name_of(self._kernel.store_id, job.id, job.armed_seq))

    async def _hold(self, job: JobInfo) -> None:
        assert job.due_at is not None  # it waits
        store_id = self._kernel.store_id
        name = name_of(store_id, job.id, job.seq)
        self._door.spent.discard(name)
        due = job.due_at if job.due_at > self._kernel.clock.now() else _PAST  # Dapr's clock may be behind: now is now
        await self._sidecar.schedule(name, time_of(due), body_of(store_id, job))

    async def _forget(self, name: str) -> None:
        if name not in self._door.spent:
            await self._sidecar.delete(name)
            self._door.spent.add(name)

    def lost(self, error: SchedulerError) -> None:
        """A call has failed: report it once, and let the probe check. One refused job is no reason to stop the
        others."""
        if isinstance(error, JobRefused):
            return self._kernel.report("dapr", error)
        if self.away is None:
            self.away_since, self.away_at = time.monotonic(), self._kernel.clock.now()
            self._pause = _AWAY_POLL
        self.away = error
        self._say(error)
        return self._nudge.set()

    async def ask_for_trigger(self) -> None:
        """Makes Dapr deliver something, to see whether it arrives."""
        try:
            await self._sidecar.ask_for_trigger()
        except SchedulerError as error:
            self.lost(error)

    async def app_port(self) -> int:
        """The port that the sidecar calls; waits for it as long as necessary."""
        while True:
            try:
                metadata = await self._sidecar.metadata()
                self.unfit = self._misfit(metadata)
                if self.unfit is None:
                    return int(metadata.app_connection_properties.port)
                self._say(self.unfit)
            except SchedulerError as error:
                self.lost(error)
            await anyio.sleep(_AWAY_POLL)

    async def keep(self) -> None:
        """Probes and compares, for ever."""
        fresh, outage, compared, took = True, False, 0.0, 0.0
        while True:
            if await self._answers():
                outage = await self._returned() or outage
                if await self._emptied():
                    fresh, took = True, 0.0  # at once, however long it takes
                now = time.monotonic()
                due = fresh or outage or now - compared >= self._settings.reconcile
                if due and now - compared >= took * _SHARE and await self._compare(outage):
                    fresh, outage, compared = False, False, time.monotonic()
                    took = compared - now
            else:
                outage = True
            self._nudge = anyio.Event()
            with anyio.move_on_after(self._pause if self.away else min(_POLL, self._settings.reconcile)):
                await self._nudge.wait()

    async def _answers(self) -> bool:
        """Whether the scheduler answers; after trouble, whether it takes a job as well."""
        try:
            await self._sidecar.holds(PROBE)
            if self.away is not None:
                await self._sidecar.try_write()
        except SchedulerError as error:
            refused = not isinstance(error, SchedulerUnavailable | SchedulerMisconfigured)
            self.lost(error)
            self._pause = min(self._pause * 2, _REFUSED_POLL) if refused else _AWAY_POLL
            return False
        return True

    async def _returned(self) -> bool:
        """Whether it had been away: then it may be another sidecar, with an empty scheduler."""
        if self.trouble is None:
            return False
        try:
            unfit = self._misfit(await self._sidecar.metadata())
        except SchedulerError as error:
            self.lost(error)
            return True
        was_away, self.away, self.unfit = self.away is not None, None, unfit
        if unfit is not None:
            self._say(unfit)
        else:
            _log.info("The Dapr sidecar and its scheduler are back.")
            self._said.clear()
        if was_away:
            self._kernel.wake()  # the outbox has been waiting
        return was_away

    async def _emptied(self) -> bool:
        """Whether Dapr has lost a job that it held according to the store: then its scheduler's data are gone."""
        store_id = self._kernel.store_id
        try:
            if self._sample is None:
                rows = await self._kernel.store.find(Query(status=(JobStatus.SCHEDULED,), limit=_SAMPLED))
                held = [row for row in rows if waits(row) and row.armed_seq == row.seq]
                self._sample = max(held, key=_due, default=None)
            if (sample := self._sample) is None:
                return False
            if await self._sidecar.holds(name_of(store_id, sample.id, sample.seq)):
                return False
            self._sample = None
            rows = await self._kernel.store.find(Query(ids=(sample.id,)))  # it may just have been called
        except SchedulerError as error:
            self.lost(error)
            return False
        except StoreError as error:
            self._kernel.report("dapr", error)
            return False
        return any(row.seq == sample.seq and waits(row) for row in rows)

    async def _compare(self, outage: bool) -> bool:
        try:
            absent = await self._absent()
            done = await reconcile(self._kernel.store, absent, self._forget, self._hold, unarmed=outage)
        except SchedulerError as error:
            self.lost(error)
            return False
        except StoreError as error:  # no reason to stop taking triggers; the next poll tries again
            self._kernel.report("dapr", error)
            return False
        if done.deleted or done.armed:
            _log.info("Compared with Dapr: %d stale jobs deleted, %d missing ones armed.", done.deleted, done.armed)
        return True

    async def _absent(self) -> Absent:
        """By the list of what Dapr holds; row by row if Dapr cannot list it although its scheduler answers."""
        store_id = self._kernel.store_id
        try:
            names = await self._sidecar.names()
        except SchedulerError as error:
            await self._sidecar.holds(PROBE)  # raises when it is an outage
            if self.unlisted is None:
                self._kernel.report("dapr", error)
            self.unlisted = error
            return absent_by_row(store_id, self._sidecar.holds)
        self.unlisted = None
        return absent_from_list(store_id, names)

    def _say(self, error: SchedulerError) -> None:
        """Reports each kind of trouble once an outage, however often it occurs."""
        kind = str(error) if isinstance(error, SchedulerMisconfigured) else type(error).__name__
        if kind not in self._said:
            self._said.add(kind)
            self._kernel.report("dapr", error)


def _due(row: JobInfo) -> datetime:
    assert row.due_at is not None  # it waits
    return row.due_at
