"""What SQLite finds, takes and deletes is what the values choose of all rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from plugins.beside_memory import agree

from aether_bg import SQLiteStore

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


@pytest.mark.parametrize("seed", range(6))
async def test_statements_and_values_agree(path: Path, seed: int, pytestconfig: pytest.Config) -> None:
    if seed < 2 or pytestconfig.getoption("--thorough"):
        await agree(SQLiteStore(path), seed)
