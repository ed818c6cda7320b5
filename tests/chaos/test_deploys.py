"""Row 37: rolling deploys whose declarations no longer fit what the store says."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from aether_bg import JobContext, schedule
from chaos.harness import World
from chaos.plugins import Hook
from chaos.worker import Spec, Worker

COMPLETED, FAILED = 2, 3
ENDINGS = (signal.SIGTERM, signal.SIGKILL)


class Version(Worker):
    """`words`: with the plugin that reads "@often"."""

    def further(self) -> list[Any]:
        return [Hook(schedule_parse=often)] if self.spec.get("words") else []


def version(spec: Spec) -> None:
    """One version of a service: its declarations, and "beside", which every version has. `knows`: has the handler."""
    worker = Version(spec)

    async def step(args: dict, ctx: JobContext) -> None:
        await worker.quick(args, ctx)

    async def beside(ctx: JobContext) -> None:
        with worker.logged(ctx):
            pass

    if spec.get("knows", True):
        worker.app.handler("step")(step)
    worker.app.handler("beside", schedule="@every 150ms")(beside)
    for declared in spec["declares"]:
        instants = {name: datetime.fromtimestamp(at, UTC) for name, at in declared.items() if name == "until"}
        worker.app.declare("step", **declared | instants)
    worker.app.run()


def often(self: Any, text: str, timezone: str | None) -> Any:
    """A word of a plugin's."""
    return Often(schedule.parse("@every 200ms")) if text == "@often" else None


class Often:
    text, timezone, recurring = "@often", None, True

    def __init__(self, every: schedule.Schedule) -> None:
        self._every = every

    def __getattr__(self, name: str) -> Any:
        return getattr(self._every, name)


def job(payload: dict[str, Any], text: str, **options: Any) -> dict[str, Any]:
    return {"job_name": "job", "payload": payload, "schedule": text, **options}


class Service:
    """The processes of one service, on one database."""

    def __init__(self, world: World) -> None:
        self.world = world.create()

    def start(self, *declares: dict[str, Any], **spec: Any) -> Any:
        """A process of this version, once it runs: "beside" does, whatever becomes of the declarations."""
        process = self.world.start("chaos.test_deploys:version", declares=list(declares), **spec)
        self.world.until(
            lambda: self.world.find("end", name="beside", pid=process.pid) or not process.alive, what="the start"
        )
        assert process.alive, process.tail()
        return process

    def ended(self, version: int) -> list[dict[str, Any]]:
        """Attempts of the declared job that returned, of this version of it."""
        ids = [id_ for id_, payload, _ in self.rows() if payload["v"] == version]
        return [event for event in self.world.find("end", name="job", how="returned") if event["job"] in ids]

    def rows(self) -> list[tuple[str, dict[str, Any], int]]:
        """Of the declared job, oldest first: id, payload, status."""
        found = self.world.sql("SELECT id, payload, status FROM aether_jobs WHERE job_name = 'job' ORDER BY id")
        return [(id_, json.loads(payload), status) for id_, payload, status in found]

    def told(self) -> str:
        return " ".join(text for (text,) in self.world.sql("SELECT problems FROM aether_owners"))

    def check(self) -> None:
        self.world.end_all()
        assert self.world.sql("SELECT count(*) FROM aether_jobs WHERE status = ?", FAILED) == [(0,)]
        self.world.check(overlaps=False, late=60)


@pytest.fixture
def services(worlds: Callable[[str], World]) -> Callable[[int], Service]:
    return lambda number: Service(worlds(f"service-{number}"))


@pytest.mark.row(37, small=4, full=20)
def test_a_running_one_shot_is_declared_again(services: Callable[[int], Service], count: int) -> None:
    for number in range(count):
        service = services(number)
        old = service.start(job({"v": 1, "ms": 700}, "@once"))
        service.world.until(lambda w=service.world: w.find("start", name="job"))
        service.start(job({"v": 2, "ms": 1}, "@once"))
        if not service.world.find("end", name="job"):  # this machine may be slow
            assert "'job'" in service.told()
        old.send(ENDINGS[number % 2])
        service.world.until(lambda s=service: s.ended(2), what="the new version's run")
        service.world.until(lambda s=service: [status for *_, status in s.rows()] == [COMPLETED, COMPLETED])
        service.world.until(lambda s=service: "'job'" not in s.told())
        service.check()


@pytest.mark.row(37, small=4, full=20)
def test_the_end_passes_during_a_deploy(services: Callable[[int], Service], count: int) -> None:
    """What was due before it is made up for, by the new version; what never began is reported."""
    chance = random.Random(37)
    for number in range(count):
        service = services(number)
        until = time.time() + 2.5
        old = service.start(job({"v": 1}, "@every 200ms", until=until))
        service.world.until(lambda s=service: s.ended(1))
        time.sleep(chance.random())
        old.send(ENDINGS[number % 2])
        old.wait()
        before, seen = service.rows()[0], len(service.world.find("end", name="job"))
        time.sleep(max(0.0, until + 0.3 - time.time()))
        gone = {**job({"v": 3}, "@every 200ms", until=until), "job_name": "gone"}
        service.start(job({"v": 2}, "@every 200ms", until=until), gone)
        assert "'gone'" in service.told()
        if before[2] < COMPLETED:
            service.world.until(lambda s=service: [status for *_, status in s.rows()] == [COMPLETED])
            assert len(service.world.find("end", name="job")) > seen, "the last occurrence before the end"
        assert [id_ for id_, *_ in service.rows()] == [before[0]]
        service.check()


@pytest.mark.row(37, small=4, full=20)
def test_repeats_fall_below_what_has_run(services: Callable[[int], Service], count: int) -> None:
    for number in range(count):
        service = services(number)
        old = service.start(job({"v": 1}, "@every 100ms", repeats=500))
        service.world.until(lambda s=service: len(s.ended(1)) > 3)
        if number % 2:
            old.send(signal.SIGKILL)
        new = service.start(job({"v": 2}, "@every 100ms", repeats=2))
        old.send(signal.SIGTERM)
        old.wait()
        assert "'job'" in service.told()
        seen = len(service.ended(1))
        service.world.until(lambda s=service, seen=seen: len(s.ended(1)) > seen + 2, what="the job as it was")
        newest = service.start(job({"v": 3}, "@every 100ms", repeats=seen + 25))
        new.end()
        service.world.until(lambda s=service: [status for *_, status in s.rows()] == [COMPLETED])
        assert newest.alive
        assert [payload["v"] for _, payload, _ in service.rows()] == [3]
        service.check()


@pytest.mark.row(37, small=2, full=20)
@pytest.mark.parametrize("lacks", [{"knows": False}, {"words": False}], ids=["handler", "schedule"])
def test_a_version_that_lacks_what_the_job_needs(
    services: Callable[[int], Service], count: int, lacks: dict[str, bool]
) -> None:
    """It waits for the next version, which goes on with it; or which declares it in words that it has."""
    for number in range(count):
        service = services(number)
        often = job({"v": 1}, "@often" if "words" in lacks else "@every 200ms", repeats=500)
        old = service.start(often, words=True)
        service.world.until(lambda s=service: s.ended(1))
        middle = service.start(**lacks)
        old.send(ENDINGS[number % 2])
        old.wait()
        (before,) = service.rows()
        time.sleep(1.5)
        assert [id_ for id_, _, status in service.rows() if status < COMPLETED] == [before[0]]
        seen = len(service.ended(1))
        if number % 2:
            service.start(often, words=True)
            service.world.until(lambda s=service, seen=seen: len(s.ended(1)) > seen)
        else:
            service.start(job({"v": 2}, "@every 100ms", repeats=500))
            service.world.until(lambda s=service, seen=seen: len(s.ended(2)) > seen)
        assert middle.alive
        assert [id_ for id_, *_ in service.rows()] == [before[0]]
        service.check()
