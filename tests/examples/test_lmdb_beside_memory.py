"""What the LMDB store finds by its index is what the values choose of all rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from plugins.beside_memory import agree

pytest.importorskip("lmdb", reason="the LMDB store needs: pip install lmdb")

from lmdb_store import LMDBStore

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


async def test_index_and_values_agree(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for seed in range(4 if request.config.getoption("--thorough") else 2):
        await agree(LMDBStore(tmp_path / f"{seed}.lmdb", map_size=1 << 28), seed)
