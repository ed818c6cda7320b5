"""The APScheduler plugin against the contract for schedulers: each rule has a database of triggers of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("apscheduler", reason="the APScheduler plugin needs: pip install 'apscheduler<4' sqlalchemy")
pytest.importorskip("sqlalchemy", reason="the APScheduler plugin needs: pip install 'apscheduler<4' sqlalchemy")

from apscheduler_scheduler import APScheduler

from aether_bg.testing.contracts import scheduler_contract

places = list[Path]()


@pytest.fixture(autouse=True)
def place(tmp_path: Path) -> None:
    places.append(tmp_path)


def make() -> APScheduler:
    return APScheduler(f"sqlite:///{places[-1] / 'triggers.db'}")


pytestmark = pytest.mark.one_loop
globals().update(scheduler_contract(make, name="apscheduler"))
