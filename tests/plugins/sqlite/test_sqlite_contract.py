"""The store that ships, on a file and in a private one, through the door that others use."""

from __future__ import annotations

import pytest

from aether_bg import SQLiteStore
from aether_bg.testing.contracts import store_contract

pytestmark = pytest.mark.one_loop
globals().update(store_contract(lambda place: SQLiteStore(place / "jobs.db"), name="file"))
globals().update(store_contract(lambda place: SQLiteStore(":memory:"), durable=False, name="memory"))
