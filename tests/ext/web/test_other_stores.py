"""A store of a third party, and a server that goes away while people look."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from web_texts import SCREENS

Serve = Callable[..., Any]


@pytest.fixture
def loop() -> str:
    return "asyncio"


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def lmdb_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("lmdb", reason="the LMDB store needs: pip install lmdb")
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[3] / "examples" / "plugins"), *sys.path])
    from lmdb_store import LMDBStore

    return LMDBStore(tmp_path / "jobs.lmdb")


@pytest.fixture
def postgres_store(aether_postgres: Any) -> Any:
    from aether_bg import PostgresStore

    with aether_postgres.database() as url:
        yield PostgresStore(url, busy=1.0)


@pytest.mark.parametrize("store", ["lmdb_store"], indirect=True)
def test_a_store_that_has_the_hooks_alone(serve: Serve) -> None:
    """It cannot be looked at from outside, and says nothing of a file or a schema."""
    with serve() as service:
        ids = service.ids
        for path in (*SCREENS, "jobs?status=failed", "jobs?name=fine", "jobs?recurring=1", "jobs?paused=1"):
            assert service.settled(path).status_code == 200, path
        assert "Why it failed" in service.get(f"jobs/{ids['failed-0']}").text
        assert "this process" in service.settled("processes").text
        assert service.post(f"jobs/{ids['later']}/pause").status_code == 303
        assert service.row("later").paused
        assert "3 jobs: due again." in service.post("bulk", {"verb": "retry", "confirmed": "1"}).text


@pytest.mark.parametrize("store", ["postgres_store"], indirect=True)
def test_a_server_that_goes_and_comes_back(serve: Serve, aether_postgres: Any) -> None:
    """Pages that must ask it say that it does not answer; pages of what is kept stay, or say so as well."""
    with serve() as service:
        job = f"jobs/{service.ids['failed-0']}"
        for path in SCREENS:
            service.settled(path)
        aether_postgres.server.kill()
        try:
            for path in ("", "jobs", "recurring", "processes", job):
                answer = service.get(path)
                assert answer.status_code == 503, path
                assert "The store does not answer" in answer.text
                assert "Traceback (most recent" not in answer.text
            for path in ("failures", "handlers", "system"):
                assert service.settled(path).status_code == 200, path
            assert "cannot be reached" in service.settled("system", lambda text: "cannot be reached" in text).text
            assert service.post(f"{job}/retry").status_code == 503
        finally:
            aether_postgres.server.start()
        assert (
            service.settled("", lambda text: "<h1>Overview" in text).status_code == 200
        )  # it tells of problems of late
        for path in (*SCREENS[1:], job):
            answer = service.settled(path, lambda text: "be reached" not in text and "not answer" not in text)
            assert (answer.status_code, "cannot be reached" in answer.text) == (200, False), path
