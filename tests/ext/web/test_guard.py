"""Who may see and act, and what every answer carries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.responses import RedirectResponse
from starlette.testclient import TestClient
from web_texts import SCREENS

from aether_bg import Aether, InvalidOption, JobStatus
from aether_bg.ext.web import dashboard, health, lifespan

Serve = Callable[..., Any]


@pytest.fixture
def both() -> Any:
    return "memory", "asyncio"


def test_options_are_checked() -> None:
    app = Aether(":memory:", scheduler="timer")
    with pytest.raises(TypeError):
        dashboard(app)  # type: ignore[call-arg]
    for wrong in ({"allow": None}, {"allow": True}, {"payloads": "all"}, {"read_only": "no"}):
        with pytest.raises(InvalidOption):
            dashboard(app, **{"allow": lambda request: True} | wrong)  # type: ignore[arg-type]
    for jobs in (None, "jobs.db", object()):
        with pytest.raises(InvalidOption):
            dashboard(jobs, allow=lambda request: True)
        with pytest.raises(InvalidOption):
            health(jobs)  # type: ignore[arg-type]
        with pytest.raises(InvalidOption):
            lifespan(jobs)  # type: ignore[arg-type]


def test_who_is_not_allowed_sees_nothing(serve: Serve) -> None:
    answer: object = None
    with serve(allow=lambda request: answer) as service:
        for answer in (False, None, "", 0):
            for path in (*SCREENS, f"jobs/{service.ids['failed-0']}", "nope"):
                refused = service.get(path)
                assert refused.status_code == 403, (answer, path)
                assert "failed-0" not in refused.text
            assert service.post(f"jobs/{service.ids['failed-0']}/retry").status_code == 403
            assert service.row("failed-0").status is JobStatus.FAILED
            assert service.get("static/style.css").status_code == 200


def test_allow_may_answer_by_itself(serve: Serve) -> None:
    with serve(allow=lambda request: RedirectResponse("/login")) as service:
        assert service.client.get("/ops/", follow_redirects=False).headers["location"] == "/login"


def test_error_in_allow_refuses_the_request(serve: Serve) -> None:
    def broken(request: Any) -> bool:
        raise RuntimeError("secret detail")

    with serve(allow=broken) as service:
        answer = service.get("")
        assert answer.status_code == 500
        assert "secret detail" not in answer.text


def test_the_audit_fields_name_the_person(serve: Serve) -> None:
    async def who(request: Any) -> object:
        return request.headers.get("x-user") or True

    with serve(allow=who) as service:
        service.post(f"jobs/{service.ids['later']}/pause", headers={"x-user": "grace"})
        assert service.row("later").modified_by == "grace"
        service.post(f"jobs/{service.ids['later']}/resume")
        assert service.row("later").modified_by == "dashboard"
        service.call(service.jobs.pause, "later")
        assert service.row("later").modified_by == "service"


def test_a_name_is_stored_cut_and_without_control_characters(serve: Serve) -> None:
    with serve(allow=lambda request: "<b>\u202e\x00\r\n" + "x" * 10_000) as service:
        assert service.post(f"jobs/{service.ids['later']}/pause").status_code == 303
        name = service.row("later").modified_by
        assert name.startswith("<b>\\u202e\\x00")
        assert (len(name), name.isprintable()) == (200, True)
        assert "<b>\\u" not in service.get(f"jobs/{service.ids['later']}").text


def test_every_answer_is_guarded(serve: Serve) -> None:
    with serve() as service:
        answers = [service.get(path) for path in (*SCREENS, "nope", "static/page.js")]
        answers += [service.post("nope"), service.post(f"jobs/{service.ids['later']}/pause")]
        for answer in answers:
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'self';")
            assert "unsafe" not in policy
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["x-content-type-options"] == "nosniff"
            cached = "/static/" in str(answer.url)
            assert answer.headers.get_list("cache-control") == (
                ["public, max-age=31536000, immutable"] if cached else ["no-store"]
            )
            assert "style=" not in answer.text.replace("hx-", "") or cached
            assert " onclick" not in answer.text


ORIGINS: tuple[tuple[dict[str, str], bool], ...] = (
    ({"Sec-Fetch-Site": "same-origin"}, True),
    ({"Sec-Fetch-Site": "same-site"}, False),
    ({"Sec-Fetch-Site": "cross-site"}, False),
    ({"Sec-Fetch-Site": "none"}, False),
    ({"Sec-Fetch-Site": "same-origin, cross-site"}, False),
    ({"Sec-Fetch-Site": "cross-site", "Origin": "http://shop.test"}, False),
    ({"Origin": "http://shop.test"}, True),
    ({"Origin": "http://SHOP.test"}, True),
    ({"Origin": "http://shop.test:81"}, False),
    ({"Origin": "http://evil.test"}, False),
    ({"Origin": "http://shop.test.evil.test"}, False),
    ({"Origin": "http://user@shop.test"}, False),
    ({"Origin": "null"}, False),
    ({"Origin": "http://[bad"}, False),
    ({"Origin": ""}, False),
    ({}, False),
)


def test_an_action_comes_from_the_page_itself(serve: Serve) -> None:
    with serve() as service:
        for headers, allowed in ORIGINS:
            service.call(service.jobs.resume, "later")
            url = f"/ops/jobs/{service.ids['later']}/pause"
            answer = service.client.post(url, headers=headers, follow_redirects=False)
            assert answer.status_code == (303 if allowed else 403), (headers, answer.text)
            assert service.row("later").paused is allowed


def test_reading_changes_nothing(serve: Serve) -> None:
    with serve() as service:
        for verb in ("retry", "delete", "run", "pause", "resume", "schedule"):
            for id_ in service.ids.values():
                assert service.get(f"jobs/{id_}/{verb}").status_code == 404
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
            assert service.client.request(method, "/ops/jobs").status_code == 405
        assert service.row("failed-0").status is JobStatus.FAILED


def test_read_only_hides_and_refuses_actions(serve: Serve) -> None:
    with serve(read_only=True) as service:
        for path in (*SCREENS, *(f"jobs/{id_}" for id_ in service.ids.values())):
            assert 'method="post"' not in service.get(path).text
        for path in (f"jobs/{service.ids['later']}/pause", "bulk", "handlers/pause"):
            answer = service.post(path, {"verb": "retry", "confirmed": "1", "handler": "Fine"})
            assert answer.status_code == 403
            assert "only shows" in answer.text
        assert not service.row("later").paused


FORMS = (
    (b"x=" + b"y" * 70_000, "application/x-www-form-urlencoded", 413),
    (b"{}", "application/json", 415),
    (b"--x\r\n", "multipart/form-data; boundary=x", 415),
    (b"\xff\xfe=1", "application/x-www-form-urlencoded", 400),
    (b"&".join(b"a%d=1" % n for n in range(99)), "application/x-www-form-urlencoded", 400),
)


def test_odd_forms_are_refused(serve: Serve) -> None:
    with serve() as service:
        for body, kind, status in FORMS:
            headers = {"Sec-Fetch-Site": "same-origin", "content-type": kind}
            url = f"/ops/jobs/{service.ids['later']}/pause"
            assert service.client.post(url, content=body, headers=headers).status_code == status, kind
            assert not service.row("later").paused


def test_it_is_not_imported_with_the_package() -> None:
    import subprocess
    import sys

    code = "import sys, aether_bg, aether_bg.cli.app; print({'starlette', 'jinja2', 'uvicorn'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_a_websocket_is_closed(serve: Serve) -> None:
    from starlette.websockets import WebSocketDisconnect

    page = dashboard(Aether(":memory:", scheduler="timer"), allow=lambda request: True)
    with pytest.raises(WebSocketDisconnect), TestClient(page).websocket_connect("/"):
        pass
