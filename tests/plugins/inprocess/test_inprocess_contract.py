"""In-process dispatch, against the contract for runners."""

from __future__ import annotations

from aether_bg.plugins.inprocess import InProcess
from aether_bg.testing.contracts import runner_contract

globals().update(runner_contract(InProcess, name="inprocess"))
