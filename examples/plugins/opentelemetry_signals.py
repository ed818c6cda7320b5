"""Traces and metrics for OpenTelemetry: from `enqueue` to each run. Needs `opentelemetry-api`, and an SDK to see them.

    from opentelemetry_signals import Telemetry

    app = Aether("jobs.db", plugins=[Telemetry()])      # the global providers; or Telemetry(tracer_provider=…, …)

`enqueue` makes a producer span, a child of the caller's, and keeps its context in the job's metadata (`traceparent`).
Each attempt is a consumer span, in which the handler runs, with a link to it: a trace of its own, since a job may run
for years after its enqueue. With `Telemetry(join=True)` attempts are children instead, in one trace with the caller.

| metric | kind, unit | attributes |
|---|---|---|
| `aether_bg.jobs.enqueued` | counter | handler |
| `aether_bg.attempts` | counter | handler, outcome |
| `aether_bg.attempt.duration` | histogram, s | handler, outcome |
| `aether_bg.attempt.lateness` | histogram, s: from its due instant to its claim | handler |
| `aether_bg.occurrences.missed` | counter | handler, outcome |

What it does not do: a span ends before the outcome is committed, so it says what the handler did; the metrics say what
was recorded. Cancelled by a `delete` or a stop, it says "cancelled", at the deadline "timed out". An enqueue that finds
its job there already, or fails, still leaves its producer span. Payloads are never shown. Jobs of declarations and of
`tx.enqueue` have no caller's span.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Final

from anyio import get_cancelled_exc_class
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from aether_bg import GiveUp, JobContext, JobInfo, Snooze, hookimpl
from aether_bg.model import Ended, Enqueued, Event, Missed
from aether_bg.protocols import Kernel

NAME: Final = "aether_bg"
SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
"""Bounds of the histograms; the SDK's defaults are meant for milliseconds."""
_EARLY: Final = timedelta(milliseconds=50)
"""How much earlier than the deadline on the app's clock the loop may cancel an attempt."""


class Telemetry:
    """The plugin. Providers: None means the global ones. `join`: attempts are children of the enqueue's span."""

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        join: bool = False,
    ) -> None:
        self._tracer = trace.get_tracer(NAME, tracer_provider=tracer_provider)
        meter = metrics.get_meter(NAME, meter_provider=meter_provider)
        self._join = join
        self._context = TraceContextTextMapPropagator()
        self._kernel: Kernel | None = None
        self._enqueued = meter.create_counter("aether_bg.jobs.enqueued", "{job}", "Jobs added")
        self._attempts = meter.create_counter("aether_bg.attempts", "{attempt}", "Attempts that have ended")
        self._missed = meter.create_counter("aether_bg.occurrences.missed", "{occurrence}", "Occurrences without a run")
        self._duration = meter.create_histogram(
            "aether_bg.attempt.duration", "s", "How long attempts took", explicit_bucket_boundaries_advisory=SECONDS
        )
        self._lateness = meter.create_histogram(
            "aether_bg.attempt.lateness", "s", "From due to claimed", explicit_bucket_boundaries_advisory=SECONDS
        )

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel) -> None:
        self._kernel = kernel

    # -- traces ------------------------------------------------------------------------------------

    @hookimpl
    def dispatch_stamp(self, job: JobInfo) -> Mapping[str, str]:
        with self._tracer.start_as_current_span(
            f"enqueue {job.handler_name}", kind=SpanKind.PRODUCER, attributes=_attributes(job)
        ):
            carrier: dict[str, str] = {}
            self._context.inject(carrier)
            return carrier

    @hookimpl
    def dispatch_wrap(self, ctx: JobContext) -> AbstractAsyncContextManager[None]:
        return self._in_span(ctx)

    @asynccontextmanager
    async def _in_span(self, ctx: JobContext) -> AsyncIterator[None]:
        job = ctx.job
        carrier = {key: text for key in self._context.fields if isinstance(text := job.metadata.get(key), str)}
        producer = self._context.extract(carrier, Context())
        link = Link(trace.get_current_span(producer).get_span_context())
        linked = link.context.is_valid and not self._join
        attributes = _attributes(job) | {
            "aether_bg.attempt": ctx.attempt,
            "aether_bg.occurrence": ctx.occurrence.isoformat(),
            "aether_bg.token": ctx.token,
        }
        with (
            self._tracer.start_as_current_span(
                f"run {job.handler_name}",
                context=producer if self._join else Context(),
                kind=SpanKind.CONSUMER,
                attributes=attributes,
                links=[link] if linked else [],
                record_exception=False,
                set_status_on_exception=False,
            ) as span,
            self._errors(span, ctx),
        ):
            yield

    @contextmanager
    def _errors(self, span: Span, ctx: JobContext) -> Iterator[None]:
        """Records an error that passes through as the span's status."""
        try:
            yield
        except Snooze:
            span.add_event("snoozed")
            raise
        except get_cancelled_exc_class():
            assert self._kernel is not None  # nothing runs before the start
            late = ctx.deadline is not None and self._kernel.clock.now() >= ctx.deadline - _EARLY
            span.set_status(Status(StatusCode.ERROR, "timed out" if late else "cancelled"))
            raise
        except BaseException as error:
            if not isinstance(error, GiveUp):
                span.record_exception(error)
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
            raise

    # -- metrics -----------------------------------------------------------------------------------

    @hookimpl
    async def lifecycle_event(self, event: Event) -> None:
        match event:
            case Enqueued(job):
                self._enqueued.add(1, {"handler": job.handler_name})
            case Ended(context, run):
                about = {"handler": context.job.handler_name, "outcome": str(run.outcome)}
                self._attempts.add(1, about)
                if run.started_at is not None and run.finished_at is not None:
                    self._duration.record((run.finished_at - run.started_at).total_seconds(), about)
                if run.started_at is not None and context.job.due_at is not None:
                    late = (run.started_at - context.job.due_at).total_seconds()
                    self._lateness.record(max(late, 0.0), {"handler": context.job.handler_name})
            case Missed(job, run):
                self._missed.add(run.count, {"handler": job.handler_name, "outcome": str(run.outcome)})


def _attributes(job: JobInfo) -> dict[str, str | int]:
    return {
        "messaging.system": NAME,
        "messaging.destination.name": job.handler_name,
        "messaging.message.id": str(job.id),
        "aether_bg.job.name": job.job_name,
    }
