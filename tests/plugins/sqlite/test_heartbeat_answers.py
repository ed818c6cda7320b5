"""What a SQLite store answers to a heartbeat."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from aether_bg import Aether, SQLiteStore
from aether_bg.model import Heartbeat

pytestmark = pytest.mark.anyio


async def test_size_is_looked_up_at_the_join_only(tmp_path: Path) -> None:
    store, me = SQLiteStore(tmp_path / "jobs.db"), uuid4()
    async with Aether(store).client():

        async def beat(join: bool) -> int:
            about = Heartbeat(
                owner=me, handlers=(), now=datetime.now(UTC), interval=5, keep_for=60, join=join, leave=not join
            )
            return (await store.store_heartbeat(about)).size

        assert await beat(join=True) > 0
        assert await beat(join=False) == 0
