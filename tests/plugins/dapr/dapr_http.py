"""uvicorn inside a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import uvicorn
from dapr_standin import until


@asynccontextmanager
async def served(app: Any, port: int, **options: Any) -> AsyncIterator[None]:
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", ws="none", **options))
    async with anyio.create_task_group() as group:
        group.start_soon(server._serve)
        await until(lambda: server.started)
        yield
        server.should_exit = True
