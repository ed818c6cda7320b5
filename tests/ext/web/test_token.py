"""`aether-bg web`: the link that lets one browser in, and what the command refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from aether_bg import Aether
from aether_bg.cli import web_command
from aether_bg.cli.app import cli
from aether_bg.ext.web import dashboard
from aether_bg.ext.web._token import OneLink


def browser(page: Any, host: str = "127.0.0.1:8000") -> TestClient:
    return TestClient(page, base_url=f"http://{host}", follow_redirects=False)


@pytest.fixture
def allow() -> OneLink:
    return OneLink(8000, "grace", lambda: None)


@pytest.fixture
def page(allow: OneLink, tmp_path: Path) -> Any:
    return dashboard(Aether(tmp_path / "jobs.db", scheduler="timer"), allow=allow)


def test_a_link_lets_one_browser_in_once(allow: OneLink, page: Any) -> None:
    one, other, token = browser(page), browser(page), allow.link().partition("?")[2]
    assert one.get("/jobs").status_code == 403
    entered = one.get(f"/?{token}")
    assert (entered.status_code, entered.headers["location"]) == (303, "./")
    cookie = entered.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "samesite=strict"))
    assert one.get("/jobs").status_code == 503  # let in; the app of this test does not run
    assert other.get(f"/?{token}").status_code == 403
    fresh = allow.link().partition("?")[2]
    assert browser(page).get(f"/?{token}").status_code == 403
    assert other.get(f"/?{fresh}").status_code == 303


@pytest.mark.parametrize("query", ["token=", "token=%00", "token=" + "x" * 9999, "", "token=é"])
def test_a_guess_does_not(allow: OneLink, page: Any, query: str) -> None:
    allow.link()
    assert browser(page).get(f"/?{query}").status_code == 403
    assert browser(page).get("/", headers={"cookie": "aether-bg-8000=x"}).status_code == 403


def test_the_name_of_another_site_does_not_lead_here(allow: OneLink, page: Any) -> None:
    token = allow.link().partition("?")[2]
    for host in ("evil.test:8000", "127.0.0.1:8001", "127.0.0.1.evil.test:8000", "127.0.0.1"):
        assert browser(page, host).get(f"/?{token}").status_code == 403
    assert browser(page, "localhost:8000").get(f"/?{token}").status_code == 303


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_command, "find_spec", lambda name: None if name == "uvicorn" else sys)
    result = CliRunner().invoke(cli, ["web", "jobs.db"])
    assert result.exit_code == 1
    assert "pip install 'aether-bg[web]'" in result.output


def test_a_store_that_is_not_there_is_named(tmp_path: Path) -> None:
    for more in ([], ["--read-only"]):
        result = CliRunner().invoke(cli, ["web", str(tmp_path / "none.db"), *more])
        assert result.exit_code == 1
        assert "there is no such file" in result.output
        assert not (tmp_path / "none.db").exists()
