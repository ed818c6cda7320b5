"""The eight actions, by forms as a browser sends them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from aether_bg import JobStatus
from aether_bg.ext.web import _actions

Serve = Callable[..., Any]

ONE = pytest.mark.parametrize("both", [("memory", "trio")], indirect=True, ids=["memory-trio"])
"""For what is the page's alone: other stores and loops would do the same."""


def test_single_actions(serve: Serve) -> None:
    with serve() as service:
        ids = service.ids
        answer = service.post(f"jobs/{ids['failed-0']}/retry")
        assert (answer.status_code, answer.headers["location"]) == (303, f"../../jobs/{ids['failed-0']}?done=retry")
        assert "It is due again." in service.get(f"jobs/{ids['failed-0']}?done=retry").text
        assert service.call(service.jobs.wait, "failed-0", 10).status is JobStatus.FAILED
        assert service.post(f"jobs/{ids['later']}/run").status_code == 303
        assert service.call(service.jobs.wait, "later", 10).status is JobStatus.COMPLETED
        service.post(f"jobs/{ids['nightly']}/pause")
        assert service.row("nightly").paused
        service.post(f"jobs/{ids['nightly']}/resume", {"back": "recurring"})
        assert not service.row("nightly").paused
        service.post(f"jobs/{ids['nightly']}/schedule", {"schedule": "0 4 * * *", "timezone": "Europe/Paris"})
        assert (service.row("nightly").schedule, service.row("nightly").timezone) == ("0 4 * * *", "Europe/Paris")


@ONE
def test_delete_asks_first(serve: Serve) -> None:
    with serve() as service:
        url = f"jobs/{service.ids['long']}/delete"
        asked = service.post(url)
        assert (asked.status_code, "Delete <bdi>long</bdi>?" in asked.text) == (200, True)
        assert service.row("long").status is JobStatus.RUNNING
        assert service.post(url, {"confirmed": "1"}).status_code == 303
        assert service.row("long").status is JobStatus.CANCELLED


def test_delete_of_what_has_ended_changes_nothing_and_says_so(serve: Serve) -> None:
    with serve() as service:
        for name in ("fine-0", "failed-0"):
            before, url = service.row(name), f"jobs/{service.ids[name]}"
            answer = service.post(f"{url}/delete", {"confirmed": "1"})
            assert answer.headers["location"] == f"../../{url}?done=nothing"
            assert "It had ended already." in service.get(f"{url}?done=nothing").text
            assert service.row(name) == before
        gone = f"jobs/{uuid4()}"
        assert service.post(f"{gone}/delete").status_code == 404
        assert (
            service.get(service.post(f"{gone}/delete", {"confirmed": "1"}).headers["location"][6:]).status_code == 404
        )


IMPOSSIBLE: tuple[tuple[str, str, dict[str, str], int, str], ...] = (
    ("fine-0", "retry", {}, 409, "COMPLETED"),
    ("later", "retry", {}, 409, "SCHEDULED"),
    ("failed-0", "run", {}, 409, "FAILED"),
    ("later", "schedule", {"schedule": "61 * * * *"}, 400, "minute"),
    ("later", "schedule", {"schedule": ""}, 400, "must say when"),
    ("later", "schedule", {"schedule": "@daily", "timezone": "Mars/X"}, 400, "Mars"),
    ("later", "schedule", {"schedule": "<script>alert(1)</script>"}, 400, "&lt;script&gt;"),
    ("failed-0", "schedule", {"schedule": "@daily"}, 409, "FAILED"),
    ("later", "explode", {}, 404, "No such action"),
)


@ONE
def test_what_is_not_possible_says_why(serve: Serve) -> None:
    with serve() as service:
        for job, verb, fields, status, words in IMPOSSIBLE:
            before = service.row(job)
            answer = service.post(f"jobs/{service.ids[job]}/{verb}", fields)
            assert (answer.status_code, words in answer.text) == (status, True), answer.text
            assert service.row(job) == before


@ONE
def test_back_leads_to_known_screens_only(serve: Serve) -> None:
    with serve() as service:
        id_ = service.ids["later"]
        wanted = {
            "jobs": "../../jobs?status=scheduled&done=pause", "recurring": "../../recurring?done=pause",
            "overview": "../../?done=pause", "https://evil.test": f"../../jobs/{id_}?done=pause",
            "//evil.test": f"../../jobs/{id_}?done=pause", "": f"../../jobs/{id_}?done=pause",
        }  # fmt: skip
        for back, location in wanted.items():
            answer = service.post(f"jobs/{id_}/pause", {"back": back, "status": "scheduled"})
            assert answer.headers["location"] == location


def test_a_handler_is_paused(serve: Serve) -> None:
    with serve() as service:
        assert service.post("handlers/pause", {"handler": "Fine"}).status_code == 303
        assert service.call(service.jobs.store.stats).paused_handlers == ("Fine",)
        assert "handler paused" in service.get("jobs").text
        service.post("handlers/resume", {"handler": "Fine"})
        assert service.call(service.jobs.store.stats).paused_handlers == ()
        assert service.post("handlers/pause", {"handler": ""}).status_code == 400


def test_bulk_asks_counts_and_acts(serve: Serve) -> None:
    with serve() as service:
        line = service.call(service.jobs.store.failures)[0].error_line
        chosen = {"verb": "retry", "status": "failed", "handler": "Fails", "error": line}
        asked = service.post("bulk", chosen)
        assert (asked.status_code, "<b>3</b> jobs match" in asked.text) == (200, True)
        assert service.row("failed-0").status is JobStatus.FAILED
        assert service.row("failed-0").modified_by != "ada"
        done = service.post("bulk", chosen | {"confirmed": "1"})
        assert "3 jobs: due again." in done.text
        for n in range(3):
            assert service.call(service.jobs.wait, f"failed-{n}", 10).attempt == 1
        deleted = service.post("bulk", {"verb": "delete", "status": "scheduled", "name": "lat", "confirmed": "1"})
        assert "1 job: cancelled." in deleted.text
        assert service.row("later").status is JobStatus.CANCELLED
        assert service.row("later").modified_by == "ada"
        assert service.row("nightly").status is JobStatus.SCHEDULED


def test_bulk_retry_leaves_cancelled_jobs_alone(serve: Serve) -> None:
    with serve() as service:
        service.call(service.jobs.delete, "later")
        service.post("bulk", {"verb": "retry", "confirmed": "1"})
        assert service.row("later").status is JobStatus.CANCELLED
        service.post("bulk", {"verb": "retry", "status": "cancelled", "confirmed": "1"})
        assert service.row("later").status is not JobStatus.CANCELLED


@ONE
def test_bulk_is_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_actions, "MOST", 2)
    monkeypatch.setattr(_actions, "_BITE", 1)
    with serve() as service:
        answer = service.post("bulk", {"verb": "delete", "status": "scheduled", "confirmed": "1"})
        assert "2 jobs: cancelled." in answer.text
        assert "More match" in answer.text


@ONE
def test_one_bulk_action_at_a_time(serve: Serve) -> None:
    with serve() as service:
        page = service.client.app.routes[0].app

        async def hold() -> None:
            await page._actions._bulk.acquire()

        service.call(hold)
        answer = service.post("bulk", {"verb": "retry", "confirmed": "1"})
        assert (answer.status_code, "One at a time" in answer.text) == (429, True)


def test_bulk_reports_jobs_that_refused(serve: Serve) -> None:
    with serve() as service:
        service.call(service.jobs.delete, "later")
        service.call(service.jobs.enqueue, "Fine", "later", 7, "@daily")  # another job has the name now
        answer = service.post("bulk", {"verb": "retry", "status": "cancelled", "confirmed": "1"})
        assert "0 jobs: due again. 1 could not:" in answer.text
        assert "its name is held by another job" in answer.text


@ONE
def test_an_unknown_bulk_verb_is_refused(serve: Serve) -> None:
    with serve() as service:
        for verb in ("", "purge", "run", "__class__"):
            assert service.post("bulk", {"verb": verb, "confirmed": "1"}).status_code == 400


@ONE
def test_pages_name_the_commands(serve: Serve) -> None:
    with serve() as service:
        text = service.get(f"jobs/{service.ids['failed-0']}").text
        assert "aether-bg retry " in text
        assert str(service.ids["failed-0"]) in text
