"""What a policy, wrap, codec, stamp or observer may do to the jobs of others."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import attrs

from aether_bg import Aether, GiveUp, JobContext, Snooze, hookimpl
from aether_bg.errors import InvalidSchedule
from aether_bg.model import About, Event, GiveUpNow, JobStatus, Postpone, Problem, Raised, RetryAt, TimedOut
from aether_bg.model.about import What
from aether_bg.testing.contracts.opening import hooks_of, implements
from aether_bg.testing.contracts.suite import Suite, expect, expect_same, only_if
from aether_bg.testing.contracts.values import PAYLOADS, a_job, alike, now


class Mishap(Exception):
    """Raised by a handler of this contract."""


class _Problems(logging.Handler):
    """What is reported, and what an observer raised: that is only logged."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "lifecycle_event" in (text := record.getMessage()):
            self.seen.append(f"{text}: {record.exc_info and record.exc_info[1]!r}")

    @hookimpl
    async def lifecycle_event(self, event: Event) -> None:
        if isinstance(event, Problem):
            self.seen.append(f"{event.part}: {event.error}")

    @contextmanager
    def listening(self) -> Iterator[None]:
        logger = logging.getLogger("aether_bg")
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)


@attrs.frozen
class PolicyWorld:
    """`plugin`: the one under test. `later`: another one from the same factory, as a later start would make it."""

    plugin: Any
    later: Any
    words: tuple[str, ...]
    folder: Path

    def needs(self, hook: str) -> None:
        """The rule is about this hook: left out if the plugin does not have it."""
        only_if(implements(self.plugin, hook), f"the plugin has no {hook}")

    @property
    def hooks(self) -> Any:
        return hooks_of(self.plugin)

    def app(self, *plugins: Any) -> Aether:
        """An app with the plugin: "Work" returns, "Fails" raises."""
        app = Aether(self.folder / "jobs.db", scheduler="timer", plugins=[self.plugin, *plugins], grace=1)

        async def work(payload: dict[str, Any]) -> None:
            return None

        async def fails(payload: dict[str, Any]) -> None:
            raise Mishap("a failure of the contract's")

        app.handler("Work")(work)
        app.handler("Fails")(fails)
        return app

    def started(self) -> AbstractAsyncContextManager[object]:
        return self.app().client()


def _attempt() -> JobContext:
    return JobContext(job=a_job(status=JobStatus.RUNNING, seq=1, attempt=1, owner=uuid4(), started_at=now()))


POLICY: Suite[PolicyWorld] = Suite("policy")


@POLICY.rule(
    "dispatch_decide",
    "it answers None, RetryAt, Postpone or GiveUpNow, and raises nothing",
    because="its error would reach no caller",
)
async def a_decision(world: PolicyWorld) -> None:
    world.needs("dispatch_decide")
    async with world.started():
        for failure in (Raised(Mishap("no")), Raised(KeyError("x")), Raised(SystemExit(1)), TimedOut(1.0)):
            decided = world.hooks.dispatch_decide(ctx=_attempt(), failure=failure)
            expect(decided is None or isinstance(decided, RetryAt | Postpone | GiveUpNow), f"of {failure}: {decided!r}")
            if isinstance(decided, RetryAt):
                expect(decided.when.utcoffset() is not None, f"of {failure}: {decided!r} has no time zone")


@POLICY.rule("dispatch_wrap", "it answers None or an async context manager", because="it is entered around the attempt")
async def something_to_enter(world: PolicyWorld) -> None:
    world.needs("dispatch_wrap")
    async with world.started():
        for wrap in world.hooks.dispatch_wrap(ctx=_attempt()):
            expect(hasattr(type(wrap), "__aenter__") and hasattr(type(wrap), "__aexit__"), f"it answers {wrap!r}")


@POLICY.rule("dispatch_wrap", "the handler's error passes through", because="a failed attempt would count as done")
async def the_error_passes(world: PolicyWorld) -> None:
    world.needs("dispatch_wrap")
    async with world.started():
        for error in (Mishap("no"), Snooze(timedelta(hours=1)), GiveUp("no")):
            for wrap in world.hooks.dispatch_wrap(ctx=_attempt()):
                entered, seen = False, None
                try:
                    async with wrap:
                        entered = True
                        raise error
                except BaseException as raised:
                    seen = raised
                refuses = isinstance(seen, Snooze | GiveUp) and not entered  # it may not let an attempt begin
                expect(seen is not None, f"{error!r} of the handler was swallowed")
                expect(refuses or seen is error, f"{error!r} of the handler came out as {seen!r}")


@POLICY.rule("dispatch_wrap", "cancellation passes through", because="timeouts, deletes and the stop are cancellations")
async def cancellation_passes(world: PolicyWorld) -> None:
    world.needs("dispatch_wrap")
    async with world.started():
        for wrap in world.hooks.dispatch_wrap(ctx=_attempt()):
            after = False
            with anyio.move_on_after(0.2) as scope:
                try:
                    async with wrap:
                        await anyio.sleep(60)
                    after = True
                except (Snooze, GiveUp):
                    continue
            expect(scope.cancelled_caught and not after, "a cancelled attempt went on after its wrap")


@POLICY.rule(
    "dispatch_stamp",
    "it answers None or metadata, and leaves the job alone",
    because="metadata is JSON",
)
async def a_stamp(world: PolicyWorld) -> None:
    world.needs("dispatch_stamp")
    job = a_job(payload={"a": [1]}, extra_properties={"OrderId": 123})
    before = copy.deepcopy(attrs.asdict(job))
    for stamp in world.hooks.dispatch_stamp(job=job):
        expect(isinstance(stamp, Mapping) and all(isinstance(key, str) for key in stamp), f"it answers {stamp!r:.200}")
        try:
            text = json.dumps(dict(stamp), allow_nan=False)
        except (TypeError, ValueError) as error:
            text = ""
            expect(False, f"{stamp!r:.200} is not JSON: {error}")
        expect(len(text) <= 8192 and len(stamp) <= 64, f"{len(stamp)} keys, {len(text)} bytes, of 64 and 8,192")
    expect(alike(attrs.asdict(job), before), "the job was changed")


@POLICY.rule("dispatch_codec", "decode undoes encode, to the digit", because="a handler must get what was enqueued")
async def a_codec(world: PolicyWorld) -> None:
    world.needs("dispatch_codec")
    about = About.of(a_job())
    for codec in world.hooks.dispatch_codec():
        for payload in PAYLOADS:
            before = copy.deepcopy(payload)
            stored = codec.encode(payload, about)
            expect(alike(payload, before), f"encode changed the payload that it was given: {before!r:.100}")
            try:
                read = json.loads(json.dumps(stored, allow_nan=False))
            except (TypeError, ValueError) as error:
                expect(False, f"encode({payload!r:.100}) is not JSON: {error}")
            back = codec.decode(read, about)
            expect(alike(back, before), f"{before!r:.100} came back as {back!r:.100}")


@POLICY.rule("dispatch_codec", "the next start reads what this one wrote", because="jobs outlive the process")
async def a_codec_after_a_restart(world: PolicyWorld) -> None:
    world.needs("dispatch_codec")
    later = hooks_of(world.later).dispatch_codec()
    for codec, next_codec in zip(world.hooks.dispatch_codec(), later, strict=True):
        payload, about = {"to": "ada", "n": 2**62 + 1}, About.of(a_job())
        back = next_codec.decode(json.loads(json.dumps(codec.encode(payload, about))), about)
        expect(alike(back, payload), f"{payload!r} came back as {back!r} from another plugin of the same factory")


@POLICY.rule("dispatch_codec", "results outlive the handler and the metadata", because="a job may be redefined")
async def a_codec_after_a_change(world: PolicyWorld) -> None:
    world.needs("dispatch_codec")
    job = a_job(extra_properties={"tenant": "one"})
    changed = attrs.evolve(job, handler_name="Other", extra_properties={"tenant": "two"})
    whats: tuple[What, ...] = ("result", "checkpoint")
    for codec in world.hooks.dispatch_codec():
        for what in whats:
            stored = json.loads(json.dumps(codec.encode([1, "a"], About.of(job, what))))
            back = codec.decode(stored, About.of(changed, what))
            expect(alike(back, [1, "a"]), f"a {what} came back as {back!r:.100} after handler and metadata had changed")


@POLICY.rule(
    "schedule_parse", "None for what is not its own, InvalidSchedule for what is wrong", because="others come next"
)
async def other_words(world: PolicyWorld) -> None:
    world.needs("schedule_parse")
    for text in ("@once", "0 3 * * *", "@every 1h", "", "unknown words \x00 at all", "x" * 10_000):
        try:
            answer = world.hooks.schedule_parse(text=text, timezone=None)
        except InvalidSchedule:
            continue
        expect(answer is None or hasattr(answer, "next"), f"of {text!r:.50} it answers {answer!r:.100}")


@POLICY.rule("schedule_parse", "a schedule goes on, and means the same at the next load", because="it is loaded again")
async def its_own_words(world: PolicyWorld) -> None:
    only_if(world.words, "no words of its own were given")
    for text in world.words:
        schedule = world.hooks.schedule_parse(text=text, timezone=None)
        expect(schedule is not None, f"it does not read {text!r}, one of the words it was given")
        later_hooks = hooks_of(world.later)
        loaded = later_hooks.schedule_parse(text=schedule.text, timezone=schedule.timezone)
        anchor = datetime(2026, 1, 1, 12, tzinfo=UTC)
        at: datetime | None = schedule.first(anchor)
        steps = 0
        while at is not None and steps < 50:
            expect(at.utcoffset() is not None, f"{text!r} has an occurrence without time zone: {at}")
            following = schedule.next(at, anchor)
            expect(following is None or following > at, f"the occurrence of {text!r} after {at} is {following}")
            if loaded is not None:
                expect_same(loaded.next(at, anchor), following, f"after {at}, loaded as {schedule.text!r}")
            at, steps = following, steps + 1
        expect(schedule.recurring or steps <= 1, f"{text!r} is not `recurring`, and has {steps} occurrences")


@POLICY.rule("lifecycle_event", "it accepts every event, and nothing is reported", because="errors hide errors")
async def under_an_app(world: PolicyWorld) -> None:
    problems = _Problems()
    with problems.listening():
        await _live(world, world.app(problems))
    expect(not problems.seen, f"problems were reported: {problems.seen}")


async def _live(world: PolicyWorld, app: Aether) -> None:
    async with app:
        payload = {"text": "🦊", "n": 2**62 + 1}
        one = await app.enqueue("Work", "one", payload, metadata={"OrderId": 123})
        two = await app.enqueue("Fails", "two", payload)
        late = await app.enqueue("Work", "late", payload, "@yearly")
        for job in (one, two):
            with anyio.move_on_after(5):  # a policy may put it off
                await app.wait(job)
        await app.pause(late)
        await app.resume(late)
        await app.delete(late)
        row = await app.store.get(one)
        expect(row is not None, "a job is gone")
        assert row is not None
        expect(alike(row.payload, payload), f"the payload of a job is {row.payload!r:.100}, was {payload!r}")
        expect_same(row.metadata.get("OrderId"), 123, "metadata of the caller's (it wins over a stamp)")
        failed = await app.store.get(two)
        expect(failed is not None and failed.status is not JobStatus.COMPLETED, "a job that raises is COMPLETED")


@POLICY.rule("lifecycle_start", "it can be started again, and for a client", because="both happen to every plugin")
async def started_again(world: PolicyWorld) -> None:
    async with (app := world.app()):
        async with app.client() as client:
            await client.enqueue("Work", payload={})
        await app.enqueue("Work", payload={})
    async with app:
        await app.enqueue("Work", payload={})
