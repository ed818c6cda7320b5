"""The plugins under examples/plugins are imported as a user would: from a folder on the path."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aether_bg import Aether

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path[:0] = [str(EXAMPLES / "plugins"), str(EXAMPLES)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where handlers leave their notes."""
    made = tmp_path / "notes"
    made.mkdir()
    return made


@pytest.fixture
def pool_app(make_app: Callable[..., Aether]) -> Callable[..., Aether]:
    """`make_app`, with the pool of processes as its runner."""
    from process_pool_tools import pool_app_of

    return pool_app_of(make_app)
