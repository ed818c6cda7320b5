"""Threads that own a connection each: a caller who finds all of them busy is answered in time."""

from __future__ import annotations

import anyio
import pytest

from aether_bg import Aether, PostgresStore
from aether_bg.errors import StoreBusy
from aether_bg.plugins.postgres.connections import Connection

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


@pytest.mark.parametrize("cancelled", [False, True])
async def test_operation_that_finds_all_connections_busy_never_runs(url: str, cancelled: bool) -> None:
    ran: list[Connection] = []
    store = PostgresStore(url, busy=0.3)
    async with Aether(store, scheduler="timer").client(), anyio.create_task_group() as group:
        opened = store._open()

        async def hold() -> None:
            await opened._writers.do(lambda conn: conn.execute("SELECT pg_sleep(1)"), within=5, limit=5)

        for _ in range(2):
            group.start_soon(hold)
        await anyio.sleep(0.1)
        with anyio.fail_after(5):
            if cancelled:
                with anyio.move_on_after(0.05):
                    await opened.write(ran.append)
            else:
                with pytest.raises(StoreBusy):
                    await opened.write(ran.append)
    assert ran == []
