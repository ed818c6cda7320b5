"""Staying in contact: waits for the sidecar, notices when it goes and comes, compares after each return.

While it is away nothing is lost (rows wait in the store) and nothing is tried in vain: one probe a second asks, all
else is refused at once.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

import anyio

from aether_bg.errors import SchedulerError, SchedulerMisconfigured, SchedulerUnavailable, StoreError
from aether_bg.model import JobInfo
from aether_bg.plugins.dapr.door import Door
from aether_bg.plugins.dapr.fitness import misfit
from aether_bg.plugins.dapr.names import body_of, name_of, time_of, waits
from aether_bg.plugins.dapr.reconcile import reconcile
from aether_bg.plugins.dapr.settings import DaprSettings
from aether_bg.protocols import Kernel

if TYPE_CHECKING:
    from aether_bg.plugins.dapr.sidecar import Sidecar

_log: Final = logging.getLogger("aether_bg.dapr")
_POLL: Final = 5.0
_AWAY_POLL: Final = 1.0
_START_POLL: Final = 0.1
_SHARE: Final = 20
"""Comparing may take one part in so many of the time: a large store is compared less often."""


class Contact:
    """The plugin's relation to one sidecar. `trouble`: what is wrong now; `away`: calls are of no use."""

    def __init__(self, kernel: Kernel, settings: DaprSettings, sidecar: Sidecar, door: Door) -> None:
        self.trouble: SchedulerError | None = None
        self.away = False
        self._kernel, self._settings, self._sidecar, self._door = kernel, settings, sidecar, door
        self._nudge = anyio.Event()

    async def begin(self) -> None:
        """Wait for the sidecar, within bounds, and look whether it fits; go on without it unless it is required.

        Only its API need be there: the rest of it waits for the app in turn.
        """
        end = time.monotonic() + self._settings.wait
        while True:
            try:
                metadata = await self._sidecar.metadata()
                break
            except SchedulerUnavailable as error:
                if time.monotonic() >= end:
                    if self._settings.required:
                        raise
                    return self.lost(error)
            await anyio.sleep(_START_POLL)
        if wrong := misfit(metadata, self._settings):
            raise wrong
        app = metadata.app_connection_properties
        what = (metadata.runtime_version, metadata.id, app.protocol, app.port)
        return _log.info("Dapr %s, app %s: triggers over %s to port %d.", *what)

    async def arm(self, job: JobInfo) -> None:
        """Make Dapr hold the row's present seq, if it waits, and no longer the one that was marked as armed.

        A name armed but never marked (the row moved on in between) is left to `reconcile`, or to its stale trigger.
        """
        if waits(job):
            await self._hold(job)
        if job.armed_seq >= 0 and (job.armed_seq != job.seq or not waits(job)):
            name = name_of(self._kernel.store_id, job.id, job.armed_seq)
            if name not in self._door.spent:
                await self._sidecar.delete(name)

    async def _hold(self, job: JobInfo) -> None:
        assert job.due_at is not None  # it waits
        store_id = self._kernel.store_id
        name = name_of(store_id, job.id, job.seq)
        self._door.spent.discard(name)
        await self._sidecar.schedule(name, time_of(job.due_at), body_of(store_id, job))

    def lost(self, error: SchedulerError) -> None:
        """A call has failed: say so once, and have the probe look. One refused job is no reason to stop the others."""
        self.suffer(error)
        self.away = isinstance(error, SchedulerUnavailable | SchedulerMisconfigured)
        self._nudge.set()

    async def app_port(self) -> int:
        """The port that the sidecar calls, however long it takes to come."""
        while True:
            try:
                metadata = await self._sidecar.metadata()
                if error := misfit(metadata, self._settings):
                    raise error
                return metadata.app_connection_properties.port
            except SchedulerError as error:
                self.suffer(error)
            await anyio.sleep(_AWAY_POLL)

    async def keep(self) -> None:
        """Probe and compare, for ever."""
        fresh, outage, compared, took = True, False, 0.0, 0.0
        while True:
            if await self._answers():
                outage = await self._return() or outage
                now = time.monotonic()
                due = fresh or outage or now - compared >= self._settings.reconcile
                if due and now - compared >= took * _SHARE and await self._compare(outage):
                    fresh, outage, compared = False, False, time.monotonic()
                    took = compared - now
            else:
                outage = True
            self._nudge = anyio.Event()
            with anyio.move_on_after(_AWAY_POLL if self.away else min(_POLL, self._settings.reconcile)):
                await self._nudge.wait()

    async def _answers(self) -> bool:
        try:
            await self._sidecar.ping()
        except SchedulerError as error:
            self.suffer(error)
            self.away = True
            return False
        return True

    async def _return(self) -> bool:
        """Whether it had been away: then it may be another sidecar, and an emptied scheduler."""
        if not self.away and self.trouble is None:
            return False
        was_away, self.away = self.away, False
        try:
            wrong = misfit(await self._sidecar.metadata(), self._settings)
        except SchedulerError as error:
            self.lost(error)
            return True
        if wrong is not None:
            self.suffer(wrong)
        elif self.trouble is not None:
            _log.info("The Dapr sidecar and its scheduler are back.")
            self.trouble = None
        if was_away:
            self._kernel.wake()  # the outbox has been waiting
        return was_away

    async def _compare(self, outage: bool) -> bool:
        try:
            done = await reconcile(self._kernel.store, self._kernel.store_id, self._sidecar, self._hold, unarmed=outage)
        except SchedulerError as error:
            self.lost(error)
            return False
        except StoreError as error:  # no reason to stop taking triggers; the next poll tries again
            self._kernel.report("dapr", error)
            return False
        if done.deleted or done.armed:
            _log.info(
                "Dapr held %d jobs: %d stale ones deleted, %d missing ones armed.", done.held, done.deleted, done.armed
            )
        return True

    def suffer(self, error: SchedulerError) -> None:
        """Report what is new: the same trouble once, however often it is met."""
        known = self.trouble
        self.trouble = error
        if known is None or (isinstance(error, SchedulerMisconfigured) and str(error) != str(known)):
            self._kernel.report("dapr", error)
