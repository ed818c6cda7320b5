"""What the LMDB store finds by its index is what the values choose of all rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from plugins.beside_memory import agree

pytest.importorskip("lmdb", reason="the LMDB store needs: pip install lmdb")

from lmdb_store import LMDBStore

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


@pytest.mark.parametrize("seed", range(4))
async def test_index_and_values_agree(tmp_path: Path, seed: int) -> None:
    await agree(LMDBStore(tmp_path / "jobs.lmdb", map_size=1 << 28), seed)
