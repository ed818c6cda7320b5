"""Payload codecs: they translate the app's payloads, results and checkpoints for the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import attrs

from aether_bg.errors import InvalidPayload, Stale
from aether_bg.model import KEEP, About, Change, Insert, JobInfo, JobRun, Note, Query, Ran, Update, Write
from aether_bg.protocols import PayloadCodec

Rows = Mapping[UUID, JobInfo]


class Undecoded(dict[str, Any]):
    """Stands for a value that no codec here can decode, `{"undecoded": …}`; written back, it is the stored value
    again."""


@attrs.frozen(eq=False)
class Codecs:
    """False if there are no codecs: then nothing here needs to be called."""

    _codecs: Sequence[PayloadCodec]

    def __bool__(self) -> bool:
        return bool(self._codecs)

    # -- to the store ----------------------------------------------------------------------------

    async def encoded(
        self, writes: Sequence[Write], find: Callable[[Query], Awaitable[Iterable[JobInfo]]]
    ) -> list[Write]:
        """`find` reads the rows that `writes` are about from the store, still encoded."""
        rows = {write.job.id: write.job for write in writes if isinstance(write, Insert)}
        asked = {job_id for write in writes if (job_id := _subject(write)) is not None}
        if ids := tuple(asked - rows.keys()):
            rows |= {job.id: job for job in await find(Query(ids=ids, limit=len(ids)))}
        return [self.encoded_write(write, rows) for write in writes]

    def encoded_write(self, write: Write, rows: Rows) -> Write:
        """Raises `Stale` for a job that no longer exists."""
        if isinstance(write, Insert):
            return Insert(self.encoded_job(write.job), write.after, write.claim)
        if (job_id := _subject(write)) is None:
            return write
        if (job := rows.get(job_id)) is None:
            raise Stale(job_id, None)
        if isinstance(write, Note):
            return attrs.evolve(write, checkpoint=self._encode(write.checkpoint, About.of(job, "checkpoint")))
        return Update(self._encoded_change(write.change, job)) if isinstance(write, Update) else write

    def _encoded_change(self, change: Change, job: JobInfo) -> Change:
        if (new := change.definition) is not None:
            job = attrs.evolve(job, handler_name=new.handler_name, extra_properties=new.extra_properties)
            payload = self._encode(new.payload, About.of(job))
            change = attrs.evolve(change, definition=attrs.evolve(new, payload=payload))
        about = About.of(job, "result")
        return attrs.evolve(change, runs=tuple(self._encoded_run(run, about) for run in change.runs))

    def encoded_job(self, job: JobInfo) -> JobInfo:
        return attrs.evolve(job, payload=self._encode(job.payload, About.of(job))) if self._codecs else job

    def _encoded_run(self, run: JobRun, about: About) -> JobRun:
        if not run.has_result:
            return run
        try:
            return attrs.evolve(run, result=self._encode(run.result, about))
        except Exception as error:  # the work is done (docs/protocol.md, K2)
            text = f"its result is not kept: a codec failed ({type(error).__name__}: {error})"
            return attrs.evolve(run, result=None, has_result=False, error=text)

    def _encode(self, value: Any, about: About) -> Any:
        if isinstance(value, Undecoded):
            return value["undecoded"]
        for codec in self._codecs:
            value = codec.encode(value, about)
        return value

    # -- from the store --------------------------------------------------------------------------

    def to_run(self, job: JobInfo) -> JobInfo:
        """Raises `InvalidPayload` if the codec that knew the payload is gone, or its key."""
        if not self._codecs:
            return job
        checkpoint = job.checkpoint
        try:
            payload = self._decode(job.payload, About.of(job))
            if checkpoint is not None:
                checkpoint = self._decode(checkpoint, About.of(job, "checkpoint"))
        except Exception as error:
            raise InvalidPayload(
                "the payload", f"it cannot be decoded ({type(error).__name__}: {error})",
                "Run it where the codec that encoded it is registered; it is kept, and `retry` runs the job again.",
            ) from error  # fmt: skip
        return attrs.evolve(job, payload=payload, checkpoint=checkpoint)

    def decoded(self, job: JobInfo) -> JobInfo:
        """For reading: a value that no codec here can decode is shown as `Undecoded`."""
        try:
            return self.to_run(job)
        except InvalidPayload:
            checkpoint = None if job.checkpoint is None else Undecoded(undecoded=job.checkpoint)
            return attrs.evolve(job, payload=Undecoded(undecoded=job.payload), checkpoint=checkpoint)

    def decoded_run(self, run: JobRun, job: JobInfo) -> JobRun:
        if not run.has_result:
            return run
        try:
            return attrs.evolve(run, result=self._decode(run.result, About.of(job, "result")))
        except Exception:
            return attrs.evolve(run, result=Undecoded(undecoded=run.result))

    def decoded_ran(self, ran: Ran, job: JobInfo) -> Ran:
        return ran if ran.run is None else attrs.evolve(ran, run=self.decoded_run(ran.run, job))

    def _decode(self, stored: Any, about: About) -> Any:
        for codec in reversed(self._codecs):
            stored = codec.decode(stored, about)
        return stored


def _subject(write: Write) -> UUID | None:
    """The job, if the write has one of its values for the codecs and does not contain the job itself."""
    if isinstance(write, Note):
        return None if write.checkpoint is KEEP or write.checkpoint is None else write.job_id
    if isinstance(write, Update):
        change = write.change
        return change.job_id if change.definition is not None or any(run.has_result for run in change.runs) else None
    return None
