"""What all parts of one kernel use."""

from __future__ import annotations

import attrs

from aether_bg._handlers.registry import Handlers
from aether_bg._hooks.calls import Calls
from aether_bg._kernel.identity import Identity
from aether_bg._kernel.observers import Observers
from aether_bg._kernel.problems import Problems
from aether_bg._kernel.schedules import Schedules
from aether_bg._kernel.slots import Slots
from aether_bg._kernel.tasks import Spawn
from aether_bg._kernel.timekeeper import Timekeeper
from aether_bg._kernel.timings import Timings


@attrs.frozen(kw_only=True, eq=False)
class Shared:
    calls: Calls
    handlers: Handlers
    schedules: Schedules
    slots: Slots
    identity: Identity
    clock: Timekeeper
    observers: Observers
    problems: Problems
    timings: Timings
    spawn: Spawn
    """Starts a task of the kernel's own."""
