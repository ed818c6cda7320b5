"""Rows, queries, forms and stores that are not made on purpose: the page says so, and goes on."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from web_texts import SCREENS

from aether_bg.errors import StoreUnreachable
from aether_bg.ext.web import _source
from aether_bg.plugins.memory import MemoryStore

Serve = Callable[..., Any]


@pytest.fixture
def loop() -> str:
    return "asyncio"


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return tmp_path / "jobs.db" if "file" in request.fixturenames else MemoryStore()


@pytest.fixture
def file() -> None:
    """The store is a file, into which anything can be written."""


FIRST = 0x01A21A7B25DF796E90B6E41900000000
RAW = (
    ("job_name", "'a' || char(10) || 'b' || char(13)"), ("job_name", "'x' || char(0) || 'y'"), ("job_name", "''"),
    ("job_name", "cast(x'ff00fe41' as text)"), ("last_error", "cast(x'ff00fe41' as text)"),
    ("last_error", "'a' || char(0) || '<script>'"), ("last_error", "hex(zeroblob(131072))"),
    ("last_error", "char(10) || char(8238) || char(10)"), ("handler_name", "''"),
    ("handler_name", "'a' || char(10) || '/?&#\"<script>'"), ("payload", "'{'"), ("created_at", "'nonsense'"),
    ("due_at", "'9999-12-31T23:59:59.999999Z'"), ("due_at", "'0001-01-01T00:00:00.000000Z'"),
    ("handled_time", "'0001-01-01T00:00:00.000000Z'"), ("handled_time", "'9999-12-31T23:59:59.999999Z'"),
    ("start", "'0001-01-01T00:00:00.000000Z'"), ("until", "'9999-12-31T23:59:59.999999Z'"),
    ("expression_value", "char(8238) || '<script>'"), ("timezone", "'../../x'"), ("progress", "'x'"),
    ("created_by", "'<script>' || char(8238)"), ("attempt", "9223372036854775807"), ("extra_properties", "'[]'"),
    ("checkpoint", "'{'"), ("misfire", "'zzz'"), ("jitter", "1e300"), ("id", "'not a uuid'"),
)  # fmt: skip


def test_rows_that_something_else_has_written(serve: Serve, store: Any, file: None) -> None:
    """Of each kind, one that waits, one that failed and one that recurs."""
    ids = []
    with serve(payloads="shown") as service:
        with closing(sqlite3.connect(store)) as db:
            columns = [row[1] for row in db.execute("PRAGMA table_info(aether_jobs)")]
            for number, (column, value) in enumerate(RAW):
                for place, source in enumerate(("later", "failed-1", "nightly")):
                    ids.append(UUID(int=FIRST + 8 * number + place))
                    new = {"id": f"'{ids[-1]}'", "job_name": f"'raw {number}{source}'", column: value}
                    if column in ("id", "job_name"):
                        new[column] += f" || {place}"
                    values = ", ".join(new.get(name, name) for name in columns)
                    db.execute(f"INSERT INTO aether_jobs SELECT {values} FROM aether_jobs WHERE job_name = ?", [source])
            db.commit()
        lists = ("jobs?status=failed", "jobs?status=scheduled", "jobs?recurring=1", "jobs?name=raw", "jobs?name=a")
        for path in (*SCREENS, *lists, *(f"jobs/{id_}" for id_ in ids)):
            answer = service.settled(path)
            assert answer.status_code == (200 if "jobs/" not in path else answer.status_code), path
            assert answer.status_code in (200, 404), (path, answer.text)
            text = re.sub(r'<input type="hidden" name="error" value="[^"]*">', "", answer.text)
            assert [raw for raw in ("\u202e", "\x00", "<script>") if raw in text] == [], path


def test_years_at_the_ends_of_the_calendar(serve: Serve) -> None:
    first, last = datetime(1, 1, 20, tzinfo=UTC), datetime(9999, 12, 1, tzinfo=UTC)
    with serve() as service:
        ids = [
            service.call(lambda: service.jobs.enqueue("Fine", "far", schedule=last)),
            service.call(lambda: service.jobs.enqueue("Fine", "old", schedule=first)),
            service.call(lambda: service.jobs.enqueue("Fine", "ends", schedule="@daily", start=first, until=last)),
        ]
        service.call(service.jobs.pause, ids[2])
        for path in (*SCREENS, *(f"jobs/{id_}" for id_ in ids)):
            assert service.settled(path).status_code == 200, path


async def ask(page: Any, path: str, query: bytes, method: str = "GET") -> tuple[int, dict[bytes, bytes], bytes]:
    """As a server that bounds nothing passes it on."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query,
        "headers": [], "root_path": "", "scheme": "http", "server": ("shop.test", 80), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    await page(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), body


QUERIES = (
    b"after=" + "٠".encode() * 32, b"after=" + b"9" * 300_000, b"after={" + b"0" * 32 + b"}", b"after=urn:uuid:",
    b"after=" + b"f" * 32, b"name=" + b"x" * 300_000, b"name=%F4%8F%BF%BF", b"name=%ED%9F%BF", b"name=%ef%bf%bf",
    b"name=%ED%A0%80", b"name=%", b"name=%zz", b"name=\xff\xfe", b"handler=%00", b"status=FAILED", b"status=%D9%A3",
    b"status=failed&status=running", b"recurring=1&status=failed", b"paused=1&status=completed&error=x", b"&&&=&",
    b"a=1&" * 20_000, b"error=%0a", b"error=a%0ab", b"done=retry&done=%3Cscript%3E", b"limit=99999999999999999999",
)  # fmt: skip


def test_queries_that_no_form_makes(serve: Serve) -> None:
    with serve() as service:
        page = service.client.app.routes[0].app
        for query in QUERIES:
            for path in ("/jobs", "/recurring", "/", "/failures", f"/jobs/{service.ids['later']}"):
                status, _, body = service.call(ask, page, path, query)
                assert status == 200, (path, query[:40], body[-300:])
                assert b"<script>" not in body
                assert len(body) < 100_000


def test_other_methods_are_told_which_there_are(serve: Serve) -> None:
    with serve() as service:
        for method in ("OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "get", "\u0130"):
            status, headers, _ = service.call(ask, service.client.app.routes[0].app, "/jobs", b"", method)
            assert (status, headers[b"allow"]) == (405, b"GET, HEAD, POST")
        for path in SCREENS:
            assert service.client.head(f"/ops/{path}").status_code == 200
        assert service.client.head(f"/ops/jobs/{service.ids['later']}/pause").status_code == 404
        assert not service.row("later").paused


SCHEDULES = (
    ("* " * 9_000, ""), ("@every 1e400s", ""), ("@every 0s", ""), ("\u202e30 2 * * *", ""), ("@daily\x00", ""),
    ("30 2 * * *", "../../etc/passwd"), ("30 2 * * *", "x" * 50_000), ("٣٠ 2 * * *", ""), ("\n", ""),
    ("<script>alert(1)</script>", "<script>"),
)  # fmt: skip


def test_schedules_that_no_one_means(serve: Serve) -> None:
    with serve() as service:
        before = service.row("later")
        for schedule, zone in SCHEDULES:
            answer = service.post(f"jobs/{before.id}/schedule", {"schedule": schedule, "timezone": zone})
            assert answer.status_code == 400, schedule[:20]
            assert [raw for raw in ("\u202e", "\x00", "<script>") if raw in answer.text] == []
            assert len(answer.text) < 10_000
        assert service.row("later") == before


@pytest.mark.parametrize("failing", [("find",), ("stats", "failures", "runs", "processes"), ("find", "stats")])
def test_a_store_that_cannot_be_reached_any_more(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, failing: tuple[str, ...]
) -> None:
    """What is read for one answer makes it 503; what is kept says why it is not there. Then all is as before."""

    async def lost(self: Any, *args: Any) -> Any:
        raise StoreUnreachable("database x on db.test:5432", "it does not answer", "Look whether it runs.")

    with serve() as service:
        with monkeypatch.context() as broken:
            for name in failing:
                broken.setattr(_source._Live, name, lost)
            for path in (*SCREENS, f"jobs/{service.ids['failed-0']}"):
                answer = service.settled(path)
                assert answer.status_code in (200, 503), path
                assert "Traceback" not in answer.text.replace("<summary>Traceback", "") or "jobs/" in path
                if answer.status_code == 503:
                    assert "The store does not answer" in answer.text
            assert (service.get("jobs").status_code == 503) is ("find" in failing)
            if "stats" in failing:
                assert "it does not answer" in service.settled("system", lambda text: "it does not" in text).text
        for path in SCREENS:
            answer = service.settled(path, lambda text: "it does not answer" not in text)
            assert (answer.status_code, "it does not answer" in answer.text) == (200, False), path


def test_an_unforeseen_error_is_told_without_its_traceback(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: Any, *args: Any) -> Any:
        raise OSError("secret detail")

    with serve() as service:
        for name in ("find", "stats", "failures", "runs", "processes"):
            monkeypatch.setattr(_source._Live, name, broken)
        for path in SCREENS:
            answer = service.settled(path)
            assert answer.status_code in (200, 500)
            assert "secret detail" not in answer.text
        assert service.get("jobs").status_code == 500
        monkeypatch.undo()


def copies(store: Any, source: str, count: int, **changed: str) -> None:
    """Jobs like `source`, with its history; `n` is the number of each."""
    with closing(sqlite3.connect(store)) as db:
        changed |= {"id": "printf('01a21a7b-25df-796e-90b6-%012d', n)", "job_name": "'copy' || n"}
        for table, key in (("aether_jobs", "id"), ("aether_runs", "job_id")):
            names = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            new = changed if table == "aether_jobs" else {"job_id": changed["id"]}
            id_ = "(SELECT id FROM aether_jobs WHERE job_name = ?)"
            db.execute(
                f"WITH RECURSIVE c(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM c WHERE n < {count - 1}) "
                f"INSERT INTO {table} SELECT {', '.join(new.get(name, name) for name in names)} "
                f"FROM c, {table} WHERE {key} = {id_}",
                [source],
            )
        db.commit()


def test_hundreds_of_handlers(serve: Serve, store: Any, file: None) -> None:
    """The overview shows the busiest, Handlers a page of them by name."""
    with serve() as service:
        copies(store, "fine-0", 300, handler_name="printf('Kind%03d', n)")
        overview = service.settled("").text
        assert 10 < overview.count("<tr") < 30
        assert "busiest" in overview
        assert len(overview) < 150_000
        seen, path, pages = set[str](), "handlers", 0
        while path:
            text, pages = service.settled(path).text, pages + 1
            assert len(text) < 300_000
            seen |= set(re.findall(r"<bdi>(\w+)</bdi></a>", text))
            more = re.search(r'href="(handlers\?[^"]*)" rel="next"', text)
            path = more[1] if more else ""
        assert seen == {"Fine", "Fails", "Keeps", "Long", *(f"Kind{number:03}" for number in range(300))}
        assert pages > 1
        assert "Kind299" in service.get("jobs").text
        assert service.get("handlers", params={"after": "zzz<script>"}).status_code == 200


def test_hundreds_of_running_jobs(serve: Serve, store: Any, file: None) -> None:
    with serve() as service:
        copies(store, "long", 700)
        text = service.settled("processes").text
        assert text.count("<bdi>copy") + text.count("<bdi>long<") == 20
        assert "These are 20 of" in text
        with closing(sqlite3.connect(store)) as db, db:
            db.execute(
                "DELETE FROM aether_runs WHERE job_id IN (SELECT id FROM aether_jobs WHERE job_name GLOB 'copy*')"
            )
            db.execute("DELETE FROM aether_jobs WHERE job_name GLOB 'copy*'")
