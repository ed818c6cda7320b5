"""Codecs know which value they get, and of which job."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

from aether_bg import Aether, JobContext, NewJob, hookimpl
from aether_bg.model import About

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
Make = Callable[..., Aether]
FAR = timedelta(days=1)


@attrs.define(eq=False)
class Tenants:
    """A key for each tenant, and what it was told."""

    told: list[tuple[str, About]] = attrs.field(factory=list)

    @hookimpl
    def dispatch_codec(self) -> Tenants:
        return self

    def encode(self, value: Any, about: About) -> Any:
        self.told.append(("encode", about))
        return {"tenant": about.metadata.get("tenant"), "job": str(about.job_id), "sealed": json.dumps(value)[::-1]}

    def decode(self, stored: Any, about: About) -> Any:
        self.told.append(("decode", about))
        assert stored["job"] == str(about.job_id)
        return json.loads(stored["sealed"][::-1])

    def encoded(self, what: str) -> list[tuple[str, str, Any]]:
        """Each once: a write that came too late is encoded again."""
        return list(dict.fromkeys(
            (about.job_name, about.handler_name, about.metadata.get("tenant"))
            for verb, about in self.told if verb == "encode" and about.what == what
        ))  # fmt: skip


@pytest.fixture
def tenants() -> Tenants:
    return Tenants()


@pytest.fixture
def app(make_app: Make, tenants: Tenants) -> Aether:
    app = make_app(plugins=[tenants])

    @app.handler("Work", keep_result=True, retries=1)
    async def work(args: dict[str, int], ctx: JobContext) -> list[Any]:
        await ctx.checkpoint(["kept"])
        return [args["n"], ctx.checkpointed]

    @app.handler("Other", keep_result=True)
    async def other(args: dict[str, int]) -> int:
        return args["n"]

    @app.handler("Merge", keep_result=True)
    async def merge(ctx: JobContext) -> list[Any]:
        return [parent.result for parent in await ctx.parents()]

    return app


async def test_payload_checkpoint_and_result_say_whose_they_are(app: Aether, tenants: Tenants) -> None:
    async with app:
        job = await app.enqueue("Work", "one", {"n": 1}, metadata={"tenant": "acme"})
        assert await app.result(job, 10) == [1, ["kept"]]
        merged = await app.enqueue("Merge", "merge", after=[job])
        assert await app.result(merged, 10) == [[1, ["kept"]]]
    assert tenants.encoded("payload") == [("one", "Work", "acme"), ("merge", "Merge", None)]
    assert tenants.encoded("checkpoint") == [("one", "Work", "acme")]
    assert tenants.encoded("result") == [("one", "Work", "acme"), ("merge", "Merge", None)]
    assert {about.job_id for _, about in tenants.told} == {job, merged}


async def test_a_redefinition_is_encoded_as_what_the_job_becomes(app: Aether, tenants: Tenants, path: Path) -> None:
    async with app:
        job = await app.enqueue("Work", "job", {"n": 1}, "@every 1h", {"tenant": "acme"})
        await app.trigger(job)
        with anyio.fail_after(20):
            while not (runs := [run for run in await app.store.history(job) if run.has_result]):
                await anyio.sleep(0.01)
        again = await app.enqueue("Other", "job", {"n": 2}, "@every 1h", {"tenant": "beta"}, if_exists="replace")
        assert again == job
        assert [run.result for run in await app.store.history(job) if run.has_result] == [runs[0].result]
    assert tenants.encoded("payload") == [("job", "Work", "acme"), ("job", "Other", "beta")]
    with closing(sqlite3.connect(path)) as conn:
        (payload,) = conn.execute("SELECT payload FROM aether_jobs").fetchone()
        (result,) = conn.execute("SELECT result FROM aether_runs WHERE result IS NOT NULL").fetchone()
    assert (json.loads(payload)["tenant"], json.loads(result)["tenant"]) == ("beta", "acme")


async def test_batches_and_units_of_work(app: Aether, tenants: Tenants) -> None:
    async with app:
        await app.enqueue_many([
            NewJob("Work", "a", {"n": 1}, FAR, {"tenant": "x"}),
            NewJob("Work", "a", {"n": 2}, FAR, {"tenant": "y"}, if_exists="replace"),
        ])  # fmt: skip
        async with app.unit_of_work() as uow:
            await app.enqueue("Work", "b", {"n": 3}, FAR, {"tenant": "z"})
            uow.run(lambda tx: tx.enqueue("Work", "c", {"n": 4}, FAR, {"tenant": "w"}))
        assert [(job.job_name, job.payload["n"]) for job in await app.store.find()] == [("a", 2), ("b", 3), ("c", 4)]
    assert tenants.encoded("payload") == [
        ("a", "Work", "x"), ("a", "Work", "y"), ("b", "Work", "z"), ("c", "Work", "w"),
    ]  # fmt: skip
