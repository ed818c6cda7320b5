"""The store that ships, on a file and in a private one, through the door that others use."""

from __future__ import annotations

import pytest

from aether_bg import SQLiteStore
from aether_bg.testing.contracts import store_contract

pytestmark = pytest.mark.one_loop
globals().update(store_contract(lambda place: SQLiteStore(place / "jobs.db"), name="file"))

MEMORY = store_contract(lambda place: SQLiteStore(":memory:"), durable=False, name="memory")
SOME = (
    "an_app_runs_on_it", "a_write_is_cancelled", "a_claim_is_cancelled", "one_store_id", "owners_come_and_go",
    "the_beat_goes_on_by_itself", "a_large_batch", "texts_are_read_back", "each_job_once", "begun_with_its_insert",
    "a_child_waits", "each_criterion", "purge_is_bounded",
)  # fmt: skip
"""A private store is a temporary file, and runs the same statements: these rules stand for the others."""
globals().update({name: MEMORY[name] for name in (f"test_memory_{rule}" for rule in SOME)})
