"""The LMDB store against the contract for stores."""

from __future__ import annotations

import pytest

pytest.importorskip("lmdb", reason="the LMDB store needs: pip install lmdb")

from lmdb_store import LMDBStore

from aether_bg.testing.contracts import store_contract

pytestmark = pytest.mark.one_loop
globals().update(store_contract(lambda place: LMDBStore(place / "jobs.lmdb", map_size=1 << 30), name="lmdb"))
