"""What PostgreSQL finds, takes and deletes is what the values choose of all rows."""

from __future__ import annotations

import pytest
from plugins.beside_memory import agree

from aether_bg import PostgresStore

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


@pytest.mark.parametrize("seed", range(6))
async def test_statements_and_values_agree(url: str, seed: int) -> None:
    await agree(PostgresStore(url), seed)
