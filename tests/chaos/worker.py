"""What a worker process does: handlers that write the history, and the roles a process can have.

`spec`: db, history, log, entry, seed; options (of Aether), moment and nth (a failpoint), scheduler ("timer" or "push"),
dapr (options of DaprScheduler), without (handlers left out), enqueue, count.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import anyio
import attrs

from aether_bg import (
    Aether,
    Backoff,
    DaprScheduler,
    InvalidTransition,
    JobContext,
    JobStatus,
    SQLiteStore,
    UnitOfWork,
)
from aether_bg._kernel.timings import Timings
from chaos.history import History
from chaos.plugins import Failpoint, Hook, Observer, Push, Watched, text

Spec = dict[str, Any]
LEFT = """
SELECT parents.job_name FROM aether_links AS links JOIN aether_jobs AS parents ON parents.id = links.parent
WHERE links.child = ? AND parents.status < 2
"""


class Worker:
    """One process's app, with the standard handlers."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.history = History(spec["history"])
        self.random = random.Random(spec.get("seed"))
        self.failpoint: Any = lambda moment: None
        if spec.get("moment"):
            self.failpoint = Failpoint(spec["moment"], spec.get("nth", 1), self.history)
        store: Any
        if spec.get("url"):
            from aether_bg import PostgresStore

            store = PostgresStore(spec["url"], **spec.get("store", {}))
        else:
            store = SQLiteStore(spec["db"], busy=spec.get("busy", 5.0))
        self.store = store
        if spec.get("locks") is False:
            from aether_bg.plugins.sqlite.locks import OwnerLocks

            OwnerLocks.dead = lambda self, owner, **_: False
        self.plugin = self.wrapped(store)
        scheduler: Any = "timer"
        if spec.get("scheduler") == "push":
            scheduler = getattr(self.plugin, "scheduler", Push)(spec["db"] + "-engine", self.failpoint)
        if spec.get("dapr"):
            scheduler = DaprScheduler(**spec["dapr"])
        options = {"grace": 1.0, **spec.get("options", {})}
        self.app = Aether(
            self.plugin, scheduler=scheduler, plugins=[Observer(self.history), *self.further()], **options
        )
        if spec.get("look"):
            self.app.registration = attrs.evolve(self.app.registration, timings=Timings(look=spec["look"]))
        self.register(set(spec.get("without", ())))

    def wrapped(self, store: Any) -> Any:
        """The store plugin; a mutant puts another one there."""
        if self.spec.get("mutant"):
            from chaos.mutants import MUTANTS

            return MUTANTS[self.spec["mutant"]](store, self.failpoint)
        return Watched(store, self.failpoint)

    def further(self) -> list[Any]:
        """Plugins of one role's own."""
        return []

    # -- handlers --------------------------------------------------------------------------------

    @contextmanager
    def logged(self, ctx: JobContext) -> Iterator[None]:
        about = {
            "job": str(ctx.job.id), "name": ctx.job.job_name, "handler": ctx.job.handler_name, "token": ctx.token,
            "attempt": ctx.attempt, "occurrence": text(ctx.occurrence),
        }  # fmt: skip
        self.history.write("start", due=text(ctx.job.due_at), **about)
        if ctx.job.parents and "url" not in self.spec:
            self.history.write("parents", left=self.left(ctx.job.id), job=str(ctx.job.id), token=ctx.token)
        try:
            yield
        except BaseException as error:
            self.history.write("end", how=type(error).__name__, **about)
            raise
        self.history.write("end", how="returned", **about)

    def left(self, child: UUID) -> list[str]:
        """Parents of this job whose end is not committed."""
        with closing(sqlite3.connect(self.spec["db"], timeout=30)) as conn:
            return [name for (name,) in conn.execute(LEFT, [str(child)])]

    def register(self, without: set[str]) -> None:
        handlers: dict[str, tuple[Any, dict[str, Any]]] = {
            "quick": (self.quick, {}),
            "effect": (self.effect, {}),
            "sync": (self.sync, {}),
            "flaky": (self.flaky, {"retries": 50, "backoff": Backoff(first=0.05, factor=1, max=0.1)}),
            "poison": (self.poison, {}),
            "steps": (self.steps, {"retries": 100}),
            "tick": (self.quick_tick, {}),
            "hold": (self.hold, {}),
            "limited": (self.limited, {"concurrency": 2}),
        }
        for name, (target, options) in handlers.items():
            if name not in without:
                self.app.handler(name, **options)(target)

    async def quick(self, args: dict, ctx: JobContext) -> None:
        with self.logged(ctx):
            self.failpoint("mid-handler")
            if args.get("ms"):
                await anyio.sleep(args["ms"] / 1000)

    async def limited(self, args: dict, ctx: JobContext) -> None:
        await self.quick(args, ctx)

    async def quick_tick(self, args: dict, ctx: JobContext) -> None:
        await self.quick(args, ctx)

    async def effect(self, args: dict, ctx: JobContext, uow: UnitOfWork) -> None:
        with self.logged(ctx):
            places = ", ".join([self.store.placeholder] * 3)
            uow.execute(f"INSERT INTO effects VALUES ({places})", [str(ctx.job.id), text(ctx.occurrence), ctx.token])
            self.failpoint("mid-handler")
            if args.get("ms"):
                await anyio.sleep(args["ms"] / 1000)
            if args.get("fails", 0) > self.random.random():
                raise RuntimeError("by chance")

    async def hold(self, args: dict, ctx: JobContext) -> None:
        """Goes on until its process dies; then it is quick."""
        with self.logged(ctx):
            await anyio.sleep(3600 if ctx.attempt == 1 else 0)

    def sync(self, args: dict, ctx: JobContext) -> None:
        with self.logged(ctx):
            self.failpoint("mid-handler")
            time.sleep(args.get("ms", 0) / 1000)

    async def flaky(self, args: dict, ctx: JobContext) -> None:
        with self.logged(ctx):
            await anyio.sleep(args.get("ms", 0) / 1000)
            if self.random.random() < args.get("fails", 0.5):
                raise RuntimeError("by chance")

    async def poison(self, args: dict, ctx: JobContext) -> None:
        with self.logged(ctx):
            await anyio.sleep(args.get("ms", 0) / 1000)
            os.kill(os.getpid(), signal.SIGKILL)

    async def steps(self, args: dict, ctx: JobContext) -> None:
        """Goes on after the last step that an earlier attempt has kept."""
        with self.logged(ctx):
            done = ctx.checkpointed or 0
            self.history.write("resumed", job=str(ctx.job.id), step=done)
            for step in range(done + 1, args["steps"] + 1):
                ctx.progress(step, args["steps"])
                await ctx.checkpoint(step)
                self.history.write("kept", job=str(ctx.job.id), step=step)
                await anyio.sleep(0.005)

    # -- enqueuing -------------------------------------------------------------------------------

    async def put(self, handler: str, name: str | None = None, *, via: Any = None, **how: Any) -> str:
        """Enqueue, and write down that it was acknowledged."""
        delay = how.pop("delay", None)
        payload = how.pop("payload", {})
        not_before = 0.0 if "if_exists" in how else time.time() + (delay or 0)
        if delay is not None:
            how["schedule"] = timedelta(seconds=delay)
        job = await (via or self.app).enqueue(handler, name, payload, **how)
        self.history.write("ack", job=str(job), name=name, handler=handler, not_before=not_before)
        return str(job)

    async def put_some(self, count: int, prefix: str, via: Any = None, *, ms: int = 30) -> None:
        """One job of every kind in turn, some of them later."""
        for number in range(count):
            kind = ("quick", "effect", "sync", "flaky", "effect")[number % 5]
            payload = {"ms": self.random.randrange(ms + 1)}
            delay = self.random.choice([None, None, 0.05, 0.3])
            await self.put(kind, f"{prefix}-{number}", via=via, payload=payload, delay=delay)


# -- roles: what `entry` names -------------------------------------------------------------------


def work(spec: Spec) -> None:
    """Enqueue what the spec says, then run jobs until killed."""
    worker = Worker(spec)

    async def main() -> None:
        async with worker.app:
            worker.history.write("ready")
            for item in spec.get("enqueue", ()):
                await worker.put(**item)
            if spec.get("count"):
                await worker.put_some(spec["count"], spec["prefix"])
            await anyio.sleep_forever()

    anyio.run(main)


def put(spec: Spec) -> None:
    """A client that enqueues what the spec says, and ends."""
    worker = Worker(spec)

    async def main() -> None:
        async with worker.app.client() as jobs:
            for item in spec["enqueue"]:
                await worker.put(via=jobs, **item)

    anyio.run(main)


def cancel_rest(spec: Spec) -> None:
    """Cancel whatever is left."""
    worker = Worker(spec)

    async def main() -> None:
        async with Aether(worker.plugin, scheduler=Hook(schedule_run=asleep)) as app:
            for job in await app.store.get_active(limit=10_000):
                await app.delete(job.id)

    anyio.run(main)


async def asleep(self: Any, kernel: Any) -> None:
    """A scheduler that never fires."""
    await anyio.sleep_forever()


def produce(spec: Spec) -> None:
    """A client that enqueues until killed, or `count` jobs, of up to `ms` milliseconds."""
    worker = Worker(spec)

    async def main() -> None:
        async with worker.app.client() as jobs:
            worker.history.write("ready")
            for number in range(spec.get("count", 10**9)):
                await worker.put_some(1, f"{spec['prefix']}-{number}", via=jobs, ms=spec.get("ms", 30))
                await anyio.sleep(worker.random.random() * spec.get("pause", 0.02))

    anyio.run(main)


class Oops(Exception):
    """Raised on purpose."""


def units(spec: Spec) -> None:
    """Business rows and jobs in one unit of work, with exceptions anywhere."""
    worker = Worker(spec)
    chance = worker.random

    async def unit(app: Any, name: str) -> None:
        payload = {"ms": chance.randrange(5), "fails": chance.choice([0, 0, 0.5])}
        async with app.unit_of_work() as uow:
            steps = [lambda: uow.execute("INSERT INTO orders VALUES (?, 'job')", [name])]
            if chance.random() < 0.5:
                uow.run(lambda tx: tx.enqueue("effect", name, payload))
            else:
                await app.enqueue("effect", name, payload)
            if chance.random() < 0.1:
                steps.append(lambda: uow.execute("INSERT INTO no_such_table VALUES (1)"))
            if chance.random() < 0.1:
                steps.append(lambda: uow.run(lambda tx: 1 / 0))
            chance.shuffle(steps)
            for step in steps:
                step()
            await anyio.sleep(chance.random() * 0.003)
            if chance.random() < 0.2:
                raise Oops

    async def main() -> None:
        async with worker.app as app, anyio.create_task_group() as group:
            worker.history.write("ready")

            async def several(lane: int) -> None:
                for number in range(10**9):
                    name = f"{spec['prefix']}-{lane}-{number}"
                    try:
                        await unit(app, name)
                    except (Oops, ZeroDivisionError, sqlite3.OperationalError) as error:
                        worker.history.write("refused", name=name, error=type(error).__name__)
                    else:
                        worker.history.write("unit", name=name)

            for lane in range(4):
                group.start_soon(several, lane)

    anyio.run(main)


def race(spec: Spec) -> None:
    """Jobs that are cancelled, settled, updated and triggered while they are claimed and run."""
    worker = Worker(spec)
    chance = worker.random

    async def verb(what: str, job: UUID, call: Any) -> None:
        await anyio.sleep(chance.random() * 0.015)
        try:
            result = await call(job)
        except InvalidTransition:
            result = "refused"
        worker.history.write("raced", verb=what, job=str(job), result=result)

    async def one(app: Any, name: str) -> None:
        job = UUID(
            await worker.put(
                chance.choice(["quick", "effect"]), name, payload={"ms": chance.randrange(40)},
                delay=chance.choice([None, 0.01, 0.02]),
            )
        )  # fmt: skip
        verbs = {
            "delete": app.delete,
            "fail": lambda job: app.store.update_status(job, JobStatus.FAILED, error="by hand"),
            "cancel": lambda job: app.store.update_status(job, JobStatus.CANCELLED),
            "update": lambda job: app.update(job, timedelta(milliseconds=chance.randrange(20))),
            "trigger": app.trigger,
            "pause": app.pause,
            "resume": app.resume,
        }
        async with anyio.create_task_group() as group:
            for what in chance.sample(sorted(verbs), 3):
                group.start_soon(verb, what, job, verbs[what])
        await anyio.sleep(0.03)
        await verb("resume", job, app.resume)

    async def main() -> None:
        async with worker.app as app:
            worker.history.write("ready")
            for start in range(0, spec["count"], 50):
                async with anyio.create_task_group() as group:
                    for number in range(start, min(start + 50, spec["count"])):
                        group.start_soon(one, app, f"{spec['prefix']}-{number}")
            while await app.store.get_active(limit=1):
                await anyio.sleep(0.02)

    anyio.run(main)


def settle(spec: Spec) -> None:
    """Run jobs until those that can end have ended."""
    worker = Worker(spec)
    endless = tuple(spec.get("endless", ("tick",)))

    async def main() -> None:
        async with worker.app as app:
            worker.history.write("ready")
            while True:
                active = await app.store.get_active(limit=100_000)
                if not [job for job in active if job.handler_name not in endless and not job.paused]:
                    break
                await anyio.sleep(0.05)

    anyio.run(main)


def until_signal(spec: Spec) -> None:
    """`app.run()`: the real thing, with its signals."""
    worker = Worker(spec)
    worker.app.run()
    worker.history.write("stopped")


def now() -> datetime:
    return datetime.now(UTC)
