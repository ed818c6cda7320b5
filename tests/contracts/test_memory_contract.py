"""A store of a third party, without SQL and without a file, through the door that others use."""

from __future__ import annotations

from memory_store import MemoryStore

from aether_bg.testing.contracts import store_contract

globals().update(store_contract(lambda place: MemoryStore(), durable=False, name="dict"))
