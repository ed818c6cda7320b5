"""The process pool against the contracts for runners and for plugins."""

from __future__ import annotations

import pytest
from process_pool import ProcessPool

from aether_bg.testing.contracts import policy_contract, runner_contract

pytestmark = pytest.mark.one_loop
globals().update(runner_contract(lambda: ProcessPool(workers=1), name="process_pool"))
globals().update(policy_contract(lambda: ProcessPool("Nobody"), name="process_pool_policy"))
