"""The Dapr plugin on a real sidecar, through the door that other schedulers use."""

from __future__ import annotations

import pytest

from aether_bg.plugins.dapr import DaprScheduler
from aether_bg.testing.contracts import scheduler_contract

pytestmark = [pytest.mark.dapr, pytest.mark.usefixtures("dapr")]

globals().update(scheduler_contract(DaprScheduler, name="dapr", backends=["asyncio"]))
