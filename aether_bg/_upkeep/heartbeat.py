"""Shows that this process is alive: its beats, and what follows from each answer (docs/protocol.md, P)."""

from __future__ import annotations

from contextlib import suppress
from typing import Final
from uuid import UUID

import anyio
import attrs

from aether_bg._kernel.alarm import Alarm
from aether_bg._kernel.shared import Shared
from aether_bg._kernel.tasks import Signal, longer, to_tick
from aether_bg._rules.ids import uuid7
from aether_bg._upkeep.monitor import Monitor
from aether_bg._upkeep.rescuer import Rescuer
from aether_bg.errors import StoreError
from aether_bg.model import Alive, Heartbeat

FOR_EVER: Final = 10 * 365 * 86400.0
APART: Final = 1.0
"""Seconds of difference between the store's clock and this machine's that are reported."""


@attrs.define(kw_only=True, eq=False)
class Heartbeats:
    """`look`: asks for a beat now, before the next turn. `lease`: seconds."""

    _shared: Shared
    _rescuer: Rescuer
    _monitor: Monitor
    _look: Signal
    _alarm: Alarm
    _lease: float
    _declares: tuple[str, ...] = ()
    alive: Alive | None = attrs.field(default=None, init=False)
    """The last answer; a client has none."""
    _not_applied: tuple[str, ...] = attrs.field(default=(), init=False)
    _announcing: anyio.CancelScope = attrs.field(factory=anyio.CancelScope, init=False)
    _apart: bool = attrs.field(default=False, init=False)

    async def join(self) -> Alive:
        """Registers, then takes back what dead owners held, before the first claim (docs/protocol.md, P1)."""
        alive = await self.beat(join=True)
        self._shared.identity.store_id = alive.store_id
        await self._rescue(alive)
        return alive

    async def show(self, not_applied: tuple[str, ...]) -> None:
        """Stores the declarations that could not be applied, for people who look at the store."""
        self._not_applied = not_applied
        await self.beat()

    async def announce_stop(self) -> None:
        """Marks this owner as stopping, so that interrupted attempts do not count as crashes (docs/protocol.md, S7)."""
        wait = 0.0
        with self._announcing:
            while not self._announcing.cancel_called:  # the store may be closed already
                with suppress(StoreError):  # if it never succeeds, `leave` reports why
                    await self.beat(stopping=True)
                    return
                wait = longer(wait, self._shared.timings.backoff)
                await anyio.sleep(wait)

    async def leave(self) -> None:
        """Puts back what is still held because no outcome was recorded, then removes this owner (docs/protocol.md, P1
        and S7)."""
        self._announcing.cancel()
        await self.beat(stopping=True)
        await self._rescuer.recover(self._shared.identity.owner, stopped=True)
        await self.beat(leave=True)

    async def keep_for_ever(self) -> None:
        """A thread outlives the stop: its claim stays alive until the process ends (docs/protocol.md, S4)."""
        self._announcing.cancel()
        await self.beat(keep_for=FOR_EVER, stopping=True)

    async def others(self) -> Alive:
        """Who is alive, by the last answer. A client has no answer, and asks now."""
        if self.alive is not None:
            return self.alive
        me, now = self._shared.identity.owner, self._shared.clock.now()
        asked = Heartbeat(owner=me, handlers=(), now=now, interval=self._lease / 3, keep_for=0)
        return await self._shared.calls.heartbeat(asked)

    async def run(self) -> None:
        """Beats, and acts on each answer, until cancelled."""
        clock, third, slots, identity = self._shared.clock, self._lease / 3, self._shared.slots, self._shared.identity
        looked, company, rests, stirred = clock.monotonic(), True, False, self._alarm.stirred.next()
        while True:
            if rests := rests and not slots.running:
                with anyio.move_on_after(to_tick(third)):
                    await stirred.wait()
            within = self._shared.timings.look * (1 if company or slots.running or rests else 3)
            if not rests or stirred.is_set():
                await self._look.wait(within)
            stirred = self._alarm.stirred.next()
            known = {(job_id, attempt.job.seq) for job_id, attempt in slots.running.items()}
            try:
                alive = await self.beat()
            except StoreError as error:
                self._shared.problems.report("heartbeat", error)
                self._rescuer.forget()
                rests = False
                continue
            looked, late = clock.monotonic(), clock.monotonic() - looked > within + third * (2 if rests else 1)
            if late:  # what has happened since is unknown
                self._rescuer.forget()
            identity.company = company = len(alive.beats) > 1
            identity.told = alive.sure_to_wake and not self._shared.calls.arms
            rests = self._alarm.sure and not company and not alive.due
            if not alive.known:
                await self._start_over()
                continue
            await self._rescue(alive)
            await self._rescuer.compare(alive, known)
            await self._monitor.look(alive)

    async def beat(
        self, *, join: bool = False, leave: bool = False, stopping: bool = False, recovered: tuple[UUID, ...] = (),
        keep_for: float | None = None,
    ) -> Alive:  # fmt: skip
        asked, identity = self._shared.clock.monotonic(), self._shared.identity
        self.alive = alive = await self._shared.calls.heartbeat(Heartbeat(
            owner=identity.owner, handlers=tuple(self._shared.handlers), now=self._shared.clock.now(),
            interval=self._lease / 3, keep_for=10 * self._lease if keep_for is None else keep_for, join=join,
            leave=leave, recovered=recovered, stopping=stopping or (join and identity.stopping),
            stop_asked=lambda: identity.stop_asked, problems=self._not_applied, declares=self._declares,
            limits=self._shared.handlers.limits if join else {},
        ))  # fmt: skip
        identity.begins_at_once = alive.begins_at_once
        self._compare_clocks(alive, asked)
        return alive

    def _compare_clocks(self, alive: Alive, asked: float) -> None:
        ahead = self._shared.clock.adopt(alive.now, asked).total_seconds()
        apart, self._apart = self._apart, abs(ahead) > APART
        if self._apart and not apart:
            where = "behind" if ahead > 0 else "ahead of"
            text = f"this machine's clock is {abs(ahead):.1f} s {where} the store's; jobs go by the store's"
            self._shared.problems.report("clock", text)

    async def _rescue(self, alive: Alive) -> None:
        if dead := await self._rescuer.look(alive):
            await self.beat(recovered=dead)

    async def _start_over(self) -> None:
        """Another process declared this one dead, for example while it was suspended (docs/protocol.md, P4)."""
        text = "another process declared this one dead; its attempts are cancelled and it registers again"
        self._shared.problems.report("heartbeat", text)
        for attempt in list(self._shared.slots.running.values()):
            attempt.revoke()
        self._shared.identity.owner = uuid7()
        self._rescuer.forget()
        await self.beat(join=True)
        self._alarm.wake()  # what it was refused meanwhile is due
