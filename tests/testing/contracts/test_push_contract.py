"""A push scheduler of a third party, through the door that others use."""

from __future__ import annotations

import pytest
from engines import with_one_engine

from aether_bg.testing.contracts import scheduler_contract

pytestmark = pytest.mark.one_loop
globals().update(scheduler_contract(with_one_engine(), name="push"))
