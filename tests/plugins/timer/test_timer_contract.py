"""The embedded timer, through the door that others use."""

from __future__ import annotations

import pytest

from aether_bg.plugins.timer import Timer
from aether_bg.testing.contracts import scheduler_contract

pytestmark = pytest.mark.one_loop
globals().update(scheduler_contract(Timer, name="timer"))
