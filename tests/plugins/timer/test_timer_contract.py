"""The embedded timer, through the door that others use."""

from __future__ import annotations

from aether_bg.plugins.timer import Timer
from aether_bg.testing.contracts import scheduler_contract

globals().update(scheduler_contract(Timer, name="timer"))
