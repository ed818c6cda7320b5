"""One file, open in several ways in one process: what `enqueue` has returned is there after `kill -9`.

docs/protocol.md, W10.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from plugins.sqlite.sharing import acknowledged_jobs_survive


@pytest.mark.parametrize("way", ["two_apps", "the_users_connection"])
def test_what_is_acknowledged_survives_a_kill(path: Path, way: str) -> None:
    """The other ways are rows of the crash programme."""
    acknowledged_jobs_survive(path, way)
