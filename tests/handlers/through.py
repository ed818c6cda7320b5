"""A payload on its way through the store: from the enqueue to the handler."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from aether_bg import Aether, InvalidPayload, JobInfo, JobStatus


async def through(app: Aether, kind: Any, payload: Any) -> Any:
    """What a handler gets whose parameter is of this type. Raises what the enqueue raises."""
    _, got = await stored_and_through(app, kind, payload)
    return got


async def stored_and_through(app: Aether, kind: Any, payload: Any) -> tuple[JobInfo, Any]:
    """Its row as well."""
    got: list[Any] = []
    app.handler("Typed")(_typed(kind, got))
    async with app:
        job = await app.wait(await app.enqueue("Typed", payload=payload), 10)
    assert job.status is JobStatus.COMPLETED, job.last_error
    assert len(got) == 1
    return job, got[0]


async def all_through(app: Aether, rows: Iterable[tuple[Any, Any]]) -> list[Any]:
    """What the handlers get of each type and payload, in this order."""
    got = list[list[Any]]()
    rows = list(rows)
    for number, (kind, _) in enumerate(rows):
        got.append([])
        app.handler(f"Typed {number}")(_typed(kind, got[number]))
    async with app:
        for number, (kind, payload) in enumerate(rows):
            job = await app.wait(await app.enqueue(f"Typed {number}", payload=payload), 10)
            assert job.status is JobStatus.COMPLETED, (kind, job.last_error)
    assert all(len(one) == 1 for one in got)
    return [one[0] for one in got]


async def not_refused(app: Aether, rows: Sequence[tuple[Any, Any, str]]) -> list[tuple[Any, Any, str]]:
    """Those whose payload the enqueue takes, or refuses without saying these words; with what it does instead."""
    wrong = list[tuple[Any, Any, str]]()
    for number, (kind, _, _) in enumerate(rows):
        app.handler(f"Typed {number}")(_typed(kind, []))
    async with app:
        for number, (kind, payload, words) in enumerate(rows):
            try:
                wrong.append((kind, payload, f"stored as {await app.enqueue(f'Typed {number}', payload=payload)}"))
            except InvalidPayload as error:
                if not re.search(words, str(error)):
                    wrong.append((kind, payload, str(error)))
        assert len(await app.store.find()) == len([one for one in wrong if one[2].startswith("stored")])
    return wrong


def _typed(kind: Any, got: list[Any]) -> Any:
    async def handler(args: Any) -> None:
        got.append(args)

    handler.__annotations__["args"] = kind
    return handler
