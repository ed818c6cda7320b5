"""A payload on its way through the store: from the enqueue to the handler."""

from __future__ import annotations

from typing import Any

from aether_bg import Aether, JobInfo, JobStatus


async def through(app: Aether, kind: Any, payload: Any) -> Any:
    """What a handler gets whose parameter is of this type. Raises what the enqueue raises."""
    _, got = await stored_and_through(app, kind, payload)
    return got


async def stored_and_through(app: Aether, kind: Any, payload: Any) -> tuple[JobInfo, Any]:
    """Its row as well."""
    got: list[Any] = []

    async def handler(args: Any) -> None:
        got.append(args)

    handler.__annotations__["args"] = kind
    app.handler("Typed")(handler)
    async with app:
        job = await app.wait(await app.enqueue("Typed", payload=payload), 10)
    assert job.status is JobStatus.COMPLETED, job.last_error
    assert len(got) == 1
    return job, got[0]
