"""Parts above `World`: what claims, runs and records."""

from __future__ import annotations

from uuid import UUID

import attrs
from kernel.conftest import World

from aether_bg._handlers.past import Kept
from aether_bg._handlers.work import UnitOfWork
from aether_bg._kernel.claimer import Claimer
from aether_bg._kernel.completer import Completer
from aether_bg._kernel.decider import Decider
from aether_bg._kernel.executor import Executor
from aether_bg._kernel.inside import Inside
from aether_bg._kernel.notes import Notes
from aether_bg._kernel.tasks import Signal
from aether_bg._kernel.triggers import Triggers


@attrs.define(eq=False)
class Machinery:
    completer: Completer
    executor: Executor
    claimer: Claimer
    triggers: Triggers
    look: Signal


def machinery(world: World) -> Machinery:
    shared, registration, look = world.shared, world.registration, Signal()
    decider = Decider(shared)
    notes = Notes(shared=shared, on_loop=lambda fn: fn(), call=lambda fn: None, limit=1000)
    completer = Completer(shared=shared, decider=decider, journal=world.journal, notes=notes)
    executor = Executor(
        shared=shared, runners=registration.runners(), dependencies=registration.dependencies,
        new_work=lambda: UnitOfWork(lambda tx, made: None, UUID(int=0)), decider=decider,  # type: ignore[arg-type,return-value]
        completer=completer, inside=Inside(shared, lambda fn: None), notes=notes,
        parents=Kept(shared.calls, shared.handlers, lambda fn: None).parents, max_result=1000,
    )  # fmt: skip
    claimer = Claimer(shared=shared, alarm=world.alarm, start=executor.start)
    triggers = Triggers(
        shared=shared, claimer=claimer, arm=world.armed.append, look=look, write=world.journal.try_update
    )
    return Machinery(completer, executor, claimer, triggers, look)
