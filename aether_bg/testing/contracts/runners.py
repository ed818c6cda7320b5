"""What a runner must do with the call it gets: run it once, say how it ended, and end when it is cancelled."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import attrs

from aether_bg import Aether, JobContext
from aether_bg.model import HandlerInfo, JobStatus, RunOutcome
from aether_bg.protocols import Runner
from aether_bg.testing.contracts.handlers import (
    Mishap,
    async_failure,
    async_hang,
    async_work,
    plain_exit,
    plain_failure,
    plain_work,
)
from aether_bg.testing.contracts.opening import hooks_of, implements
from aether_bg.testing.contracts.suite import Suite, expect, expect_same, only_if, refused
from aether_bg.testing.contracts.values import a_job, new_id, now


@attrs.frozen
class RunnerWorld:
    """`plugin`: the one that is asked for runners. `started`: it has been started, as for an app; `call`: one
    attempt."""

    plugin: Any
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "note"

    def runner(self, target: Callable[..., Any], is_async: bool) -> Runner | None:
        info = HandlerInfo(name=target.__name__, target=target, is_async=is_async, payload_type=str)
        return cast("Runner | None", hooks_of(self.plugin).dispatch_runner(handler=info))

    def kinds(self) -> list[tuple[bool, Callable[..., Any], Callable[..., Any]]]:
        """(is it async, work, failure) for the handlers that it does not leave to others."""
        both = ((False, plain_work, plain_failure), (True, async_work, async_failure))
        mine = [kind for kind in both if self.runner(kind[1], kind[0]) is not None]
        expect(mine, "dispatch_runner answers None for an async handler and for a plain one")
        return cast("list[tuple[bool, Callable[..., Any], Callable[..., Any]]]", mine)

    def call(self, target: Callable[..., Any], *args: Any) -> Coroutine[Any, Any, Any]:
        runner = self.runner(target, target in (async_work, async_failure))
        assert runner is not None
        started = now()
        job = a_job(status=JobStatus.RUNNING, seq=1, attempt=1, owner=new_id(), started_at=started)
        return runner(JobContext(job=job), partial(target, *args))

    def started(self) -> AbstractAsyncContextManager[object]:
        return Aether(":memory:", scheduler="timer", plugins=[self.plugin]).client()

    def app(self, name: str, target: Callable[..., Any], **options: Any) -> Aether:
        app = Aether(self.folder / "jobs.db", scheduler="timer", plugins=[self.plugin], grace=2)
        app.handler(name, **options)(target)
        return app


RUNNER: Suite[RunnerWorld] = Suite("runner")


@RUNNER.rule("dispatch_runner", "it is asked by a plain call, and runs nothing then", because="nothing is due yet")
async def asked_at_the_start(world: RunnerWorld) -> None:
    expect(implements(world.plugin, "dispatch_runner"), "the plugin has no dispatch_runner")
    world.kinds()
    expect(not world.file.exists(), "asked for a runner, it ran the handler")


@RUNNER.rule("dispatch_runner", "a call is made once, and its result returned", because="an attempt is one call")
async def the_result_is_returned(world: RunnerWorld) -> None:
    async with world.started():
        for is_async, work, _ in world.kinds():
            result = await world.call(work, str(world.file))
            expect_same(result, "async 🦊" if is_async else "plain 🦊", f"what {work.__name__} returned")
            expect_same(world.file.read_text(), "begun ended", f"what {work.__name__} noted")


@RUNNER.rule("dispatch_runner", "what the handler raises is raised, by type and arguments", because="policies read it")
async def the_error_is_raised(world: RunnerWorld) -> None:
    async with world.started():
        for is_async, _, failure in world.kinds():
            error = await refused(world.call(failure, str(world.file)), Mishap, f"{failure.__name__}, run")
            expect_same(error.args, ("async" if is_async else "plain", 42), "the arguments of the error")


@RUNNER.rule("S4", "cancelled, it ends, and with it the work", because="it would run twice")
async def cancelled_in_the_middle(world: RunnerWorld) -> None:
    async with world.started():
        for is_async, work, _ in world.kinds():
            world.file.unlink(missing_ok=True)
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(world.call, work, str(world.file), 20.0 if is_async else 0.8)
                    while not world.file.exists():
                        await anyio.sleep(0.01)
                    began = time.monotonic()
                    scope.cancel()
            took, left = time.monotonic() - began, world.file.read_text()
            expect(took < 10, f"{work.__name__} went on for {took:.1f} s after it was cancelled")
            await anyio.sleep(1.2)
            expect_same(world.file.read_text(), left, f"notes of {work.__name__}, 1.2 s after its runner ended")


@RUNNER.rule("P3", "the event loop goes on while a plain handler runs", because="all other jobs wait for it")
async def the_loop_goes_on(world: RunnerWorld) -> None:
    async with world.started():
        only_if(world.runner(plain_work, False), "it leaves plain handlers to others")
        ticks = 0
        async with anyio.create_task_group() as tasks:

            async def tick() -> None:
                nonlocal ticks
                while True:
                    await anyio.sleep(0.02)
                    ticks += 1

            tasks.start_soon(tick)
            await world.call(plain_work, str(world.file), 0.6)
            tasks.cancel_scope.cancel()
        expect(
            ticks >= 5,
            f"in 0.6 s of a plain handler, a task that sleeps 20 ms went on {ticks} times",
        )


@RUNNER.rule("dispatch_runner", "in an app its outcomes are recorded", because="that is what a runner is for")
async def in_an_app(world: RunnerWorld) -> None:
    for _, work, failure in world.kinds():
        app = world.app("Work", work)
        app.handler("Failure")(failure)
        async with app:
            done = await app.wait(await app.enqueue("Work", payload=str(world.file)), timeout=15)
            expect_same(done.status, JobStatus.COMPLETED, f"{work.__name__} in an app ({done.last_error})")
            failed = await app.wait(await app.enqueue("Failure", payload=str(world.file)), timeout=15)
            expect_same(failed.status, JobStatus.FAILED, f"{failure.__name__} in an app")
            expect("Mishap" in (failed.last_error or ""), f"last_error is {failed.last_error!r}")


@RUNNER.rule("S5", "a handler that exits has failed, and stops no other job", because="others are at work")
async def a_handler_that_exits(world: RunnerWorld) -> None:
    only_if(world.runner(plain_exit, False), "it leaves plain handlers to others")
    async with (app := world.app("Exit", plain_exit)):
        row = await app.wait(await app.enqueue("Exit"), timeout=15)
        expect_same(row.status, JobStatus.FAILED, "a plain handler that raises SystemExit")


@RUNNER.rule("dispatch_runner", "a timeout ends an async handler as timed out", because="a hung job must make room")
async def a_timeout(world: RunnerWorld) -> None:
    only_if(world.runner(async_hang, True), "it leaves async handlers to others")
    async with (app := world.app("Hang", async_hang, timeout=0.2)):
        job = await app.enqueue("Hang")
        row = await app.wait(job, timeout=15)
        outcomes = [run.outcome for run in await app.store.history(job)]
        expect_same((row.status, outcomes), (JobStatus.FAILED, [RunOutcome.TIMED_OUT]), "a timeout of 0.2 s")
