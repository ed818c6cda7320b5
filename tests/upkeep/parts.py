"""Parts above `World`, built alone."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from kernel.conftest import World

from aether_bg._kernel.tasks import Signal
from aether_bg._upkeep.heartbeat import Heartbeats
from aether_bg._upkeep.monitor import Monitor
from aether_bg._upkeep.rescuer import Rescuer
from aether_bg._upkeep.standstill import Standstill
from aether_bg._upkeep.waiting import Waiting
from aether_bg.model import JobInfo, JobStatus


def monitor_of(world: World) -> Monitor:
    waiting = Waiting(world.shared)
    return Monitor(shared=world.shared, waiting=waiting, arm=world.armed.append, wake=world.alarm.wake)


def rescuer_of(world: World) -> Rescuer:
    return Rescuer(shared=world.shared, journal=world.journal, standstill=Standstill(1.0))


def heartbeats_of(world: World) -> Heartbeats:
    return Heartbeats(
        shared=world.shared, lease=1.0, look=Signal(), alarm=world.alarm, rescuer=rescuer_of(world),
        monitor=monitor_of(world),
    )  # fmt: skip


async def running_job(world: World, owner: UUID, **fields: Any) -> JobInfo:
    job = world.job(status=JobStatus.RUNNING, owner=owner, attempt=1, seq=1, started_at=world.clock.now(), **fields)
    await world.journal.insert(job)
    return job
