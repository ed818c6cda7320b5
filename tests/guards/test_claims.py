"""Claims of single jobs: each job is looked for once, and claimed in the transaction that inserts it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aether_bg import Aether, SQLiteStore, hookimpl
from aether_bg.model import Claim, Claimed
from aether_bg.plugins.memory import MemoryStore

pytestmark = pytest.mark.anyio


def watched(store: type[Any]) -> type[Any]:
    """`claims`: how many jobs each one took."""

    class Watched(store):  # type: ignore[misc]
        claims: list[int]

        @hookimpl
        async def store_claim(self, claim: Claim) -> Claimed:
            claimed: Claimed = await super().store_claim(claim)
            self.claims.append(len(claimed.jobs))
            return claimed

    return Watched


@pytest.mark.parametrize("kind", ["sqlite", "memory"])
async def test_100_single_jobs_make_100_claims_at_most(make_app: Callable[..., Aether], path: Path, kind: str) -> None:
    store: Any = watched(SQLiteStore)(path) if kind == "sqlite" else watched(MemoryStore)()
    store.claims = []
    app = make_app(store)

    @app.handler("Noop")
    async def noop() -> None: ...

    async with app:
        await app.wait(await app.enqueue("Noop"), 10)
        store.claims.clear()
        for _ in range(100):
            await app.wait(await app.enqueue("Noop"), 10)
        claims = list(store.claims)
    assert claims.count(0) <= 2, "the scheduler may look once a second without a cause"
    if kind == "sqlite":  # they begin with their inserts
        assert sum(claims) <= 30
    else:
        assert (sum(claims), len(claims) <= 102) == (100, True)
