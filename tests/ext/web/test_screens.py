"""What the screens say, over all three stores, on both event loops, without a browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from web_texts import NAME, SCREENS, SECRET

from aether_bg import NewJob
from aether_bg.plugins.memory import MemoryStore

Serve = Callable[..., Any]

ONE = pytest.mark.parametrize("both", [("sqlite", "asyncio")], indirect=True, ids=["sqlite-asyncio"])
"""For what is the page's alone: other stores and loops would say the same."""
RAW = ("<script>alert", "<img", "<b onmouseover", "\u202e", "\u2066")


def pages(service: Any) -> dict[str, str]:
    """Every screen, and the page of every job."""
    paths = [*SCREENS, "jobs?status=failed", *(f"jobs/{id_}" for id_ in service.ids.values())]
    found = {}
    for path in paths:
        answer = service.settled(path)
        assert answer.status_code == 200, (path, answer.text)
        found[path] = answer.text
    return found


def test_each_screen_shows_its_data(serve: Serve) -> None:
    with serve() as service:
        found = pages(service)
        assert re.search(r"<b>3</b> failed", found[""])
        assert all(text in found[""] for text in ("failed-2", "went wrong"))
        for name in ("fine-0", "failed-1", "nightly", "paused", "long"):
            assert name in found["jobs"]
        assert "fine-0" not in found["jobs?status=failed"]
        assert all(text in found["failures"] for text in ("3 ×", "Fails"))
        assert "at 02:30 every day, Europe/Berlin" in found["recurring"]
        assert found["recurring"].count("<li><time") == 10  # two jobs, five instants each
        assert all(name in found["handlers"] for name in ("Fine", "Fails", "Long"))
        assert "long" in found["processes"]
        assert "store_transact" in found["system"]
        job = found[f"jobs/{service.ids['failed-1']}"]
        assert "It failed for good" in job
        assert job.index("Why it failed") < job.index("Attempts")
        assert all(text in job for text in ("<details", "Traceback"))
        assert "It waits for that instant." in found[f"jobs/{service.ids['later']}"]
        assert "It is paused" in found[f"jobs/{service.ids['paused']}"]


@ONE
@pytest.mark.parametrize("payloads", ["hidden", "keys", "shown"])
def test_no_screen_shows_more_of_payloads_than_it_may(serve: Serve, payloads: str) -> None:
    with serve(payloads=payloads) as service:
        found = pages(service)
        with_secret = {path for path, text in found.items() if SECRET in text}
        with_key = {path for path, text in found.items() if "iban" in text}
        of_jobs = {f"jobs/{id_}" for name, id_ in service.ids.items() if name != "mark"}
        assert with_secret == (of_jobs if payloads == "shown" else set())
        assert with_key == (set() if payloads == "hidden" else of_jobs)


@ONE
def test_stored_text_does_no_harm(serve: Serve) -> None:
    with serve(payloads="shown") as service:
        for path, page in pages(service).items():
            text = re.sub(r'<input type="hidden" name="error" value="[^"]*">', "", page)  # what a form must say again
            for raw in RAW:
                assert raw not in text, (path, raw)
        assert "&lt;script&gt;" in service.get("failures").text


@ONE
def test_long_stored_text_is_cut(serve: Serve) -> None:
    with serve(payloads="shown") as service:
        long = {"text": "x" * 200_000, "<i>": ["\u202e" * 1000] * 9}
        id_ = service.call(service.jobs.enqueue, "Fine", "y" * 200, long, timedelta(days=1))
        text = service.get(f"jobs/{id_}").text
        assert len(text) < 200_000
        assert "more characters" in text
        assert len(service.get("jobs").text) < 100_000


def test_jobs_are_filtered_and_paged(serve: Serve) -> None:
    with serve() as service:
        for n in range(60):
            service.call(service.jobs.enqueue, "Fine", f"bulk:{n:02}", None, timedelta(days=1))
        text = service.get("jobs", params={"name": "bulk:"}).text
        names = re.findall(r"<bdi>(bulk:\d\d)</bdi>", text)
        assert names == [f"bulk:{n:02}" for n in range(59, 9, -1)]
        older = re.search(r'href="jobs(\?[^"]*)" rel="next"', text)
        assert older
        rest = service.get("jobs" + older[1].replace("&amp;", "&")).text
        assert re.findall(r"<bdi>(bulk:\d\d)</bdi>", rest) == [f"bulk:{n:02}" for n in range(9, -1, -1)]
        assert "No job matches" in service.get("jobs", params={"name": "Bulk:"}).text
        assert "nightly" in service.get("jobs", params={"recurring": "1"}).text
        only = service.get("jobs", params={"paused": "1"}).text
        assert ("paused</bdi>" in only, "nightly" in only) == (True, False)
        line = service.call(service.jobs.store.failures)[0].error_line
        assert len(set(re.findall(r"failed-\d", service.get("jobs", params={"error": line}).text))) == 3


def test_a_job_links_to_those_it_waits_for_and_to_those_that_wait(serve: Serve) -> None:
    with serve() as service:
        ids, jobs = service.ids, service.jobs
        ids["merge"] = service.call(lambda: jobs.enqueue("Fine", "merge", after=[ids["fine-0"], ids["later"]]))
        ids["tell"] = service.call(lambda: jobs.enqueue("Fine", "tell", after=[ids["merge"]], after_any=True))
        merge, tell, later = (service.get(f"jobs/{ids[name]}").text for name in ("merge", "tell", "later"))
        above, _, below = merge.partition("Jobs that run after it")
        assert "Runs after 2 jobs, waits for 1" in above
        # what holds it up comes first
        assert above.index(f"jobs/{ids['later']}") < above.index(f"jobs/{ids['fine-0']}")
        assert f"jobs/{ids['tell']}" in below
        assert "It waits for 1 of 2 jobs to complete:" in merge
        assert "Runs after 1 job, waits for 1" in tell
        assert "When all have ended" in tell
        assert f"jobs/{ids['merge']}" in later
        for page in (merge, tell):  # a trigger would be refused
            assert "/run" not in page
        assert "after 1 job<" in service.get("jobs").text
        service.call(jobs.delete, "later")
        merge = service.get(f"jobs/{ids['merge']}").text
        assert "parent &#39;later&#39; was cancelled" in merge


def test_a_page_of_many_parents_and_children(serve: Serve) -> None:
    with serve() as service:
        jobs = service.jobs
        many = [NewJob("Fine", f"part:{n}", schedule=timedelta(days=1)) for n in range(60)]
        parts = service.call(jobs.enqueue_many, many)
        done = service.ids["fine-0"]
        merge = service.call(lambda: jobs.enqueue("Fine", "merge", after=[done, *parts]))
        text = service.get(f"jobs/{merge}").text
        assert text.count(">part:") == 50
        assert "50 of 61 are shown" in text
        many = [NewJob("Fine", f"next:{n}", after=[merge]) for n in range(60)]
        service.call(jobs.enqueue_many, many)
        text = service.get(f"jobs/{merge}").text
        assert text.count(">next:") == 50
        assert "These are the first 50; there are more." in text


@ONE
def test_instants_that_daylight_saving_moves_or_doubles_are_marked(serve: Serve) -> None:
    zone = {"timezone": "Europe/Berlin"}
    with serve() as service:
        for name, schedule, start, note in (
            ("spring", "30 2 * * *", datetime(2031, 3, 29, tzinfo=UTC), "moved"),
            ("autumn", "0 * * * *", datetime(2031, 10, 25, 23, 30, tzinfo=UTC), "doubled"),
        ):
            new = partial(service.jobs.enqueue, "Fine", name, None, schedule, start=start, **zone)
            for text in (service.get(f"jobs/{service.call(new)}").text, service.get("recurring").text):
                assert re.search(rf'<span class="badge note">{note}</span> \w+', text), name


NOWHERE = ("nope", "jobs/nope", f"jobs/{uuid4()}", "jobs/x/y", "static/../_page.py", "static/none.css", "bulk", "a/b/c")


@ONE
def test_what_is_not_there_is_404(serve: Serve) -> None:
    with serve() as service:
        for path in NOWHERE:
            answer = service.get(path)
            assert answer.status_code == 404
            assert "Content-Security-Policy" in answer.headers


ODD = (
    "status=<script>", "after=x", "after=" + str(uuid4()), "name=%00", "name=%ed%a0%80", "handler=" + "x" * 5000,
    "done=%3Cscript%3E", "error=" + "%22%3E" * 300, "recurring=&paused=", "status=failed&after=" + str(uuid4()),
)  # fmt: skip


@ONE
def test_odd_queries_are_answered(serve: Serve) -> None:
    with serve() as service:
        for query in ODD:
            for screen in ("jobs", "recurring", ""):
                answer = service.get(f"{screen}?{query}")
                assert answer.status_code == 200, answer.text
                assert "<script>" not in answer.text


@ONE
def test_links_work_under_any_prefix(serve: Serve) -> None:
    with serve() as service:
        assert service.get("").url.path == "/ops/"
        answer = service.client.get("/ops", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"].rstrip("/")[-4:]) == (307, "/ops")
        for path, up in (("", "./"), ("jobs", "./"), (f"jobs/{service.ids['later']}", "../")):
            text = service.get(path).text
            links = re.findall(r'(?:href|src|action)="([^"#]*)', text)
            assert f"{up}static/style.css" in text
            assert [link for link in links if link.startswith(("/", "http"))] == []


@ONE
def test_a_name_of_html_is_a_link_to_its_job(serve: Serve) -> None:
    with serve() as service:
        text = service.get("jobs").text
        assert f'jobs/{service.ids["mark"]}"><bdi>&lt;img src=x' in text
        assert NAME not in text


def test_a_client_and_a_store_are_shown_read_only(serve: Serve, store: Any) -> None:
    import aether_bg

    if isinstance(store, MemoryStore):
        pytest.skip("a store in memory cannot be inspected")
    kind = "PostgresStore" if isinstance(store, str) else "SQLiteStore"
    with serve(shown=lambda app: getattr(aether_bg, kind)(store)) as service:
        found = pages(service)
        assert "It failed for good" in found[f"jobs/{service.ids['failed-0']}"]
        merge = service.call(lambda: service.jobs.enqueue("Fine", "merge", after=["later"]))
        assert "to complete: &#39;later&#39;" in service.get(f"jobs/{merge}").text
        assert all('<form method="post"' not in text for text in found.values())
        answer = service.post(f"jobs/{service.ids['failed-0']}/retry")
        assert answer.status_code == 403
        assert "from outside" in answer.text


def test_an_app_that_does_not_run_says_so(tmp_path: Any) -> None:
    from starlette.testclient import TestClient

    from aether_bg import Aether
    from aether_bg.ext.web import dashboard, health

    app = Aether(tmp_path / "jobs.db", scheduler="timer")
    answer = TestClient(dashboard(app, allow=lambda request: True)).get("/")
    assert answer.status_code == 503
    assert "not running" in answer.text
    probe = TestClient(health(app))
    assert (probe.get("/live").status_code, probe.get("/ready").status_code) == (200, 503)


def test_probes(serve: Serve) -> None:
    with serve() as service:
        assert service.client.get("/health/live").json() == {"ok": True}
        ready = service.client.get("/health/ready")
        assert (ready.status_code, ready.json()["ok"]) == (200, True)
        assert service.client.get("/health/other").status_code == 404
        assert service.client.post("/health/ready").status_code == 405
