"""The running kernel: builds its parts, and is the `Kernel` that plugins see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from uuid import UUID

from aether_bg._handlers.awaited import Across
from aether_bg._handlers.dependencies import Dependencies
from aether_bg._handlers.past import Kept
from aether_bg._handlers.registry import Handlers
from aether_bg._handlers.work import UnitOfWork
from aether_bg._hooks.calls import Calls
from aether_bg._kernel.alarm import Alarm
from aether_bg._kernel.arming import Arming
from aether_bg._kernel.at_once import AtOnce
from aether_bg._kernel.batcher import Batcher
from aether_bg._kernel.claimer import Claimer
from aether_bg._kernel.commits import Commits
from aether_bg._kernel.completer import Completer
from aether_bg._kernel.decider import Decider
from aether_bg._kernel.executor import Executor
from aether_bg._kernel.identity import Identity
from aether_bg._kernel.inside import Inside
from aether_bg._kernel.journal import Journal
from aether_bg._kernel.notes import Notes
from aether_bg._kernel.observers import Observers
from aether_bg._kernel.problems import Problems
from aether_bg._kernel.schedules import Schedules
from aether_bg._kernel.shared import Shared
from aether_bg._kernel.slots import Slots
from aether_bg._kernel.supervisor import Supervisor
from aether_bg._kernel.tasks import Signal, Spawn, runner
from aether_bg._kernel.timekeeper import Timekeeper
from aether_bg._kernel.timings import Timings
from aether_bg._kernel.triggers import Triggers
from aether_bg._rules.settings import Options
from aether_bg.model import JobInfo, Transaction
from aether_bg.protocols import Clock, Reader, Runner


class Kernel:
    """One start of an app: created at the start, dropped at the stop. Nothing runs before `open`.

    `runners`: where each handler's code runs. `enqueue_in`: makes `tx.enqueue` for the transaction of a unit of work,
    and lists the jobs that it makes. `across`: for what handlers call, on the loop or in a thread. `spawn`: starts a
    task of the kernel's own.
    """

    def __init__(
        self, *, options: Options, timings: Timings, calls: Calls, handlers: Handlers, runners: Mapping[str, Runner],
        dependencies: Dependencies, clock: Timekeeper, spawn: Spawn, client: bool,
        enqueue_in: Callable[[Transaction, list[JobInfo]], Callable[..., UUID]], across: Across,
    ) -> None:  # fmt: skip
        self.options, self.client = options, client
        self._enqueue_in = enqueue_in
        on_loop, identity = runner(), Identity()
        self.look = Signal()
        """Set when the owner of a running job should be checked now."""
        observers = Observers(calls.observers(), timings.slow_observer)
        problems = Problems(clock=clock, identity=identity, observers=observers, on_loop=on_loop, recent=timings.recent)
        self.alarm = alarm = Alarm(clock=clock, nap=timings.nap, on_loop=on_loop)
        self.store: Reader = calls
        self.shared = shared = Shared(
            calls=calls, handlers=handlers, schedules=Schedules(calls.load, clock),
            slots=Slots(options.concurrency, alarm.wake, alarm.stirred.set), identity=identity, clock=clock,
            observers=observers, problems=problems, timings=timings, spawn=spawn,
        )  # fmt: skip
        self.supervisor, commits = Supervisor(shared=shared, on_loop=on_loop), Commits(shared, alarm)
        self.batcher = Batcher(commits.transact)
        self.arming = Arming(shared=shared, batcher=self.batcher, roused=alarm.roused) if calls.arms else None
        arm = self.arming.changed if self.arming is not None else _nothing
        self.journal = Journal(commits=commits, batcher=self.batcher, alarm=alarm, observers=observers, arm=arm)
        self.kept, decider = Kept(shared.calls, shared.handlers, across), Decider(shared)
        self.notes = notes = Notes(shared=shared, on_loop=on_loop, across=across, limit=options.max_payload)
        completer = Completer(shared=shared, decider=decider, journal=self.journal, notes=notes)
        executor = Executor(
            shared=shared, runners=runners, dependencies=dependencies, new_work=self.new_work, decider=decider,
            completer=completer, inside=Inside(shared, across, notes), notes=notes, parents=self.kept.parents,
            max_result=options.max_payload,
        )  # fmt: skip
        self.claimer = Claimer(shared=shared, alarm=alarm, start=executor.start)
        self.at_once = AtOnce(shared=shared, alarm=alarm, claimer=self.claimer, journal=self.journal)
        triggers = Triggers(shared=shared, claimer=self.claimer, journal=self.journal, look=self.look)
        self.fire, self.fire_due, self.sleep_until = triggers.fire, self.claimer.fire_due, alarm.sleep_until
        self.wake, self.spawn, self.report = alarm.wake, self.supervisor.spawn, problems.report

    # -- what plugins may ask --------------------------------------------------------------------

    @property
    def owner(self) -> UUID:
        return self.shared.identity.owner

    @property
    def clock(self) -> Clock:
        return self.shared.clock

    @property
    def store_id(self) -> UUID:
        return self.shared.identity.store_id

    # -- for the app -----------------------------------------------------------------------------

    def new_work(self) -> UnitOfWork:
        return UnitOfWork(self._enqueue_in, self.store_id)

    def open(self) -> None:
        """From now on, writes and events are carried out."""
        for loop in (self.batcher.run, self.batcher.run, self.shared.observers.run, self.notes.run):
            self.supervisor.keep(loop)

    def close(self) -> None:
        self.supervisor.end()
        self.batcher.close()

    async def drain(self) -> None:
        """Runs what is due, and what that makes due, until nothing is due. Raises a `StoreError`."""
        slots = self.shared.slots
        while True:
            busy, started = slots.busy, slots.started
            due = await self.claimer.fire_due()
            if self.claimer.error is not None:
                raise self.claimer.error
            quiet = not busy and started == slots.started  # otherwise something may have become due in the meantime
            if quiet and (due is None or due > self.clock.now()):
                return
            if slots.busy:
                await slots.freed.wait(1.0)


def _nothing(_: object) -> None: ...
