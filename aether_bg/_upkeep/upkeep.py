"""Builds the parts, and starts them in their order."""

from __future__ import annotations

from collections.abc import Sequence

from aether_bg._handlers.dependencies import Dependencies
from aether_bg._kernel.kernel import Kernel
from aether_bg._upkeep.clocks import Clocks
from aether_bg._upkeep.health import Health
from aether_bg._upkeep.heartbeat import Heartbeats
from aether_bg._upkeep.monitor import Monitor
from aether_bg._upkeep.rescuer import Rescuer
from aether_bg._upkeep.retention import Retention
from aether_bg._upkeep.standstill import Standstill
from aether_bg._upkeep.waiting import Waiting


class Upkeep:
    """`declares`: names of the jobs that the app declares."""

    def __init__(self, kernel: Kernel, *, dependencies: Dependencies, declares: Sequence[str] = ()) -> None:
        shared, journal, lease, waiting = kernel.shared, kernel.journal, kernel.options.lease, Waiting(kernel.shared)
        self._kernel = kernel
        self.heartbeats = Heartbeats(
            shared=shared, lease=lease, look=kernel.look, alarm=kernel.alarm, declares=tuple(declares),
            rescuer=Rescuer(shared=shared, journal=journal, standstill=Standstill(lease)),
            monitor=Monitor(shared=shared, waiting=waiting, arm=journal.arm, wake=kernel.wake),
        )  # fmt: skip
        self.clocks = Clocks(shared=shared, journal=journal)
        self.retention = Retention(shared=shared, keep=kernel.options.retention)
        self.health = Health(
            shared=shared, dependencies=dependencies, claimer=kernel.claimer, heartbeats=self.heartbeats,
            waiting=waiting, supervisor=kernel.supervisor,
        )  # fmt: skip

    def supervise(self) -> None:
        """What runs from the start to the stop, once this process is registered."""
        supervise = self._kernel.supervisor.supervise
        supervise(self.heartbeats.run, "heartbeat")
        supervise(self.clocks.run, "clocks")
        if self._kernel.options.retention:
            supervise(self.retention.run, "retention")
