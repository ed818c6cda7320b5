"""Spans and metrics, seen by the SDK's own in-memory exporters."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest

pytest.importorskip("opentelemetry.sdk", reason="the telemetry plugin's tests need opentelemetry-sdk")

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry_signals import SECONDS, Telemetry

from aether_bg import Aether, Backoff, GiveUp, JobContext, JobStatus, Snooze
from aether_bg.testing import FakeClock

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
Make = Callable[..., Aether]


class Seen:
    """A tracer and a meter with their exporters, and what those have got."""

    def __init__(self) -> None:
        self._exporter, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers, self.meters = TracerProvider(shutdown_on_exit=False), MeterProvider([self._reader])
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.tracers.get_tracer("the user's")

    def telemetry(self, **options: Any) -> Telemetry:
        return Telemetry(tracer_provider=self.tracers, meter_provider=self.meters, **options)

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def span(self, name: str) -> Any:
        (only,) = self.spans(name)
        return only

    def points(self, name: str) -> dict[tuple[Any, ...], Any]:
        """The data points of a metric, by the values of their attributes."""
        data = self._reader.get_metrics_data()
        return {
            tuple(value for _, value in sorted((point.attributes or {}).items())): point
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        }

    def counts(self, name: str) -> dict[tuple[Any, ...], int]:
        return {key: point.value for key, point in self.points(name).items()}


@pytest.fixture
def seen() -> Any:
    seen = Seen()
    yield seen
    seen.tracers.shutdown()
    seen.meters.shutdown()


async def run_to_end(app: Aether, handler: Any, **options: Any) -> Any:
    return await app.wait(await app.enqueue(handler, **options), timeout=20)


@pytest.mark.parametrize("join", [False, True])
async def test_from_the_caller_to_the_handler_and_on(make_app: Make, seen: Seen, join: bool) -> None:
    app = make_app(plugins=[seen.telemetry(join=join)])

    @app.handler("Second")
    def second(ctx: JobContext) -> None:  # in a thread, where the span is current as well
        with seen.tracer.start_as_current_span("in second"):
            pass

    @app.handler("First")
    async def first(ctx: JobContext) -> None:
        await app.enqueue("Second", "second")

    async with app:
        with seen.tracer.start_as_current_span("request"):
            job_id = await app.enqueue(first, "first", metadata={"OrderId": 123})
        assert (await app.wait(job_id, timeout=10)).metadata["OrderId"] == 123
        await app.wait("second", timeout=10)

    request = seen.span("request")
    parents = [("enqueue First", request), ("enqueue Second", seen.span("run First"))]
    for name, parent in [*parents, ("in second", seen.span("run Second"))]:
        assert seen.span(name).parent.span_id == parent.context.span_id
    for handler in ("First", "Second"):
        producer, consumer = seen.span(f"enqueue {handler}"), seen.span(f"run {handler}")
        assert (producer.kind, consumer.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
        assert consumer.status.status_code is StatusCode.UNSET
        if join:
            assert consumer.parent.span_id == producer.context.span_id
            assert consumer.context.trace_id == request.context.trace_id
            assert not consumer.links
        else:
            assert consumer.parent is None
            assert [link.context.span_id for link in consumer.links] == [producer.context.span_id]
            assert [link.context.trace_id for link in consumer.links] == [producer.context.trace_id]
    about = seen.span("run First").attributes
    assert about["messaging.message.id"] == str(job_id)
    assert (about["aether_bg.job.name"], about["aether_bg.attempt"]) == ("first", 1)


async def test_the_link_survives_a_restart_and_a_client(make_app: Make, seen: Seen) -> None:
    """The context travels in the file: enqueued by one, run by another."""
    async with make_app(plugins=[seen.telemetry()]).client() as jobs:
        with seen.tracer.start_as_current_span("request"):
            await jobs.enqueue("Work", "it")
    app = make_app(plugins=[seen.telemetry()])
    app.handler("Work")(lambda: None)
    async with app:
        await app.wait("it", timeout=10)
    (link,) = seen.span("run Work").links
    assert link.context.span_id == seen.span("enqueue Work").context.span_id
    assert seen.span("enqueue Work").parent.span_id == seen.span("request").context.span_id


async def test_jobs_without_a_producer(make_app: Make, seen: Seen) -> None:
    """From before this plugin, or with metadata of their own under its key."""
    async with make_app().client() as jobs:
        await jobs.enqueue("Work", "old")
        await jobs.enqueue("Work", "own", metadata={"traceparent": "mine"})
        await jobs.enqueue("Work", "odd", metadata={"traceparent": 5})
    app = make_app(plugins=[seen.telemetry()])
    app.handler("Work")(lambda: None)
    async with app:
        for name in ("old", "own", "odd"):
            assert (await app.wait(name, timeout=10)).status is JobStatus.COMPLETED
    assert [list(span.links) for span in seen.spans("run Work")] == [[], [], []]


async def test_how_attempts_end(make_app: Make, seen: Seen) -> None:
    app = make_app(plugins=[seen.telemetry()], grace=0.05)
    running = anyio.Event()

    @app.handler("Fails", retries=1, backoff=Backoff(first=0.01))
    async def fails() -> None:
        raise ValueError("no good")

    @app.handler("GivesUp")
    async def gives_up() -> None:
        raise GiveUp("no use")

    @app.handler("Snoozes")
    async def snoozes(ctx: JobContext) -> None:
        if ctx.attempt == 1:
            raise Snooze(timedelta(0))

    @app.handler("Hangs", timeout=0.1)
    async def hangs() -> None:
        await anyio.sleep_forever()

    @app.handler("Stopped", timeout=60)
    async def stopped() -> None:
        running.set()
        await anyio.sleep_forever()

    async with app:
        for handler in (fails, gives_up, snoozes, hangs):
            await run_to_end(app, handler)
        await app.enqueue(stopped)
        await running.wait()

    for span, attempt in zip(seen.spans("run Fails"), (1, 2), strict=True):
        assert span.status.description == "ValueError: no good"
        assert [event.name for event in span.events] == ["exception"]
        assert span.attributes is not None
        assert (span.attributes["error.type"], span.attributes["aether_bg.attempt"]) == ("ValueError", attempt)
    assert seen.span("run GivesUp").status.description == "GiveUp: no use"
    first, second = seen.spans("run Snoozes")
    assert ([event.name for event in first.events], second.events) == (["snoozed"], ())
    assert {span.status.status_code for span in (first, second)} == {StatusCode.UNSET}
    assert seen.span("run Hangs").status.description == "timed out"
    assert seen.span("run Stopped").status.description == "cancelled"

    assert seen.counts("aether_bg.attempts") == {
        ("Fails", "failed"): 2, ("GivesUp", "failed"): 1, ("Snoozes", "snoozed"): 1, ("Snoozes", "completed"): 1,
        ("Hangs", "timed_out"): 1, ("Stopped", "released"): 1,
    }  # fmt: skip


async def test_durations_and_lateness(make_app: Make, seen: Seen, clock: FakeClock, step: Any) -> None:
    app = make_app(plugins=[seen.telemetry()], clock=clock, scheduler=step)

    @app.handler("Work")
    async def work() -> None:
        clock.advance(seconds=7)

    async with app:
        await app.enqueue(work, schedule=timedelta(seconds=60))
        clock.advance(seconds=63)
        await app.drain()
    (duration,) = seen.points("aether_bg.attempt.duration").values()
    (late,) = seen.points("aether_bg.attempt.lateness").values()
    assert (duration.count, duration.sum) == (1, 7)
    assert (late.count, late.sum) == (1, 3)
    assert tuple(duration.explicit_bounds) == SECONDS


async def test_counts(make_app: Make, seen: Seen, clock: FakeClock, step: Any) -> None:
    app = make_app(plugins=[seen.telemetry()], clock=clock, scheduler=step)
    app.handler("Work")(lambda: None)
    async with app:
        await app.enqueue("Work", "hourly", schedule="@hourly", misfire="skip")
        async with app.unit_of_work():
            await app.enqueue("Work", "joined")
        await app.drain()
        clock.advance(hours=5, minutes=30)
        await app.drain()
    assert seen.counts("aether_bg.jobs.enqueued") == {("Work",): 2}
    assert seen.counts("aether_bg.attempts") == {("Work", "completed"): 1}
    assert seen.counts("aether_bg.occurrences.missed") == {("Work", "skipped"): 5}


async def test_no_span_leaks_into_the_caller_or_the_next_job(make_app: Make, seen: Seen) -> None:
    app = make_app(plugins=[seen.telemetry()])
    found: list[bool] = []

    @app.handler("Work")
    async def work() -> None:
        found.append(trace.get_current_span().get_span_context().is_valid)

    async with app:
        await run_to_end(app, work)
        assert not trace.get_current_span().get_span_context().is_valid
        with seen.tracer.start_as_current_span("request") as request:
            await run_to_end(app, work)
            assert trace.get_current_span() is request
    assert found == [True, True]
    assert len({span.context.trace_id for span in seen.spans("run Work") if span.context}) == 2
