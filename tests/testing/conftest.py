from __future__ import annotations

from pathlib import Path

import pytest
from shop import FakeMailer, make_shop

from aether_bg import Aether


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """The database of the real app, in a folder that does not exist: opening it fails."""
    return tmp_path / "production" / "jobs.db"


@pytest.fixture
def app(real: Path) -> Aether:
    return make_shop(real)


@pytest.fixture
def mailer() -> FakeMailer:
    return FakeMailer()
