"""The shipped store without SQL and without a file keeps the contract for stores."""

from __future__ import annotations

import pytest

from aether_bg.plugins.memory import MemoryStore
from aether_bg.testing.contracts import store_contract

pytestmark = pytest.mark.one_loop
globals().update(store_contract(lambda place: MemoryStore(), durable=False, name="dict"))
