"""How rows are stored in LMDB: JSON values, and keys whose byte order is the order in which they are read.

Every key of the index is a function of one row, so a write only has to compare the row's old keys with its new ones.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from uuid import UUID

from cattrs.preconf.json import make_converter

from aether_bg import JobInfo, JobRun, JobStatus, RunOutcome
from aether_bg.model import Owner

ID = 16  # bytes of a UUID, and of a name's digest
AFTER_ALL = b"\xff" * 33  # greater than what follows any prefix

NAME, HOLDER = b"n", b"h"  # + digest of the job's name + id
STATUS = b"s"  # + status + id
HANDLER = b"k"  # + digest of the handler's name + status + id: the handler's name
DUE = b"t"  # + due_at + id
READY = b"d"  # + digest of the handler's name + suspect, manual + priority + due_at + id: the handler's name
UNARMED = b"u"  # + id
HELD = b"o"  # + owner + id: seq
PAUSED = b"p"  # + id
PAUSED_HANDLER = b"q"  # + digest of the handler's name: its name
ENDED = b"e"  # + status + handled_time + id
COMPLETED = b"c"  # + job id + occurrence: token
PARENT = b"a"  # + child + place: the parent's id
CHILD = b"b"  # + parent + child
AWAITED = b"w"  # + parent + child: the child waits for the parent's end

_json = make_converter()
_json.register_unstructure_hook(UUID, str)
_json.register_structure_hook(UUID, lambda text, _: UUID(text))
_START = datetime.min.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def pack(row: JobInfo | JobRun | Owner) -> bytes:
    return _json.dumps(row, separators=(",", ":")).encode()


def unpack_job(value: bytes) -> JobInfo:
    return _json.loads(value, JobInfo)


def unpack_run(value: bytes) -> JobRun:
    return _json.loads(value, JobRun)


def digest(name: str) -> bytes:
    """16 bytes for a name of any length: LMDB's keys have at most 511."""
    return blake2b(name.encode(), digest_size=ID).digest()


def instant(at: datetime | None) -> bytes:
    """8 bytes, earlier before later, None before all."""
    return number(0 if at is None else (at - _START) // _MICROSECOND)


def datetime_of(key: bytes) -> datetime:
    return _START + int.from_bytes(key) * _MICROSECOND


def number(value: int) -> bytes:
    return value.to_bytes(8)


def flag(status: JobStatus) -> bytes:
    return bytes([status])


def group(handler: str, suspect: bool, manual: bool) -> bytes:
    """The prefix of some ready rows of a handler: those that may have crashed their process, those that were triggered,
    or neither."""
    return READY + digest(handler) + bytes([suspect + 2 * manual])


def lane(entry: bytes) -> bytes:
    """The prefix, of an entry of READY, of the ready rows that differ only in their due instant."""
    return entry[: -ID - 8]


def triggered(entry: bytes) -> bool:
    """Whether the row of an entry of READY is `manual`."""
    return entry[len(READY) + ID] >= 2


def job_entries(job: JobInfo) -> dict[bytes, bytes]:
    """What the index holds about this row."""
    row, name, handler = job.id.bytes, digest(job.job_name), job.handler_name.encode()
    entries = {
        NAME + name + row: b"",
        STATUS + flag(job.status) + row: b"",
        HANDLER + digest(job.handler_name) + flag(job.status) + row: handler,
        DUE + instant(job.due_at) + row: b"",
    }
    if job.holds_name:
        entries[HOLDER + name + row] = b""
    if job.waiting and job.due_at is not None:
        prefix = group(job.handler_name, job.suspect, job.manual) + bytes([100 - job.priority])
        entries[prefix + instant(job.due_at) + row] = handler
        if job.armed_seq != job.seq:
            entries[UNARMED + row] = b""
    if job.paused and not job.status.terminal:
        entries[PAUSED + row] = b""
    if job.status is JobStatus.RUNNING and job.owner is not None:
        entries[HELD + job.owner.bytes + row] = number(job.seq)
    if job.status.terminal and job.handled_time is not None:
        entries[ENDED + flag(job.status) + instant(job.handled_time) + row] = b""
    return entries


def run_key(run: JobRun) -> bytes:
    return run.job_id.bytes + number(run.token) + number(run.gap)


def run_entries(run: JobRun) -> dict[bytes, bytes]:
    if run.outcome is not RunOutcome.COMPLETED:
        return {}
    return {COMPLETED + run.job_id.bytes + instant(run.occurrence): number(run.token)}


def unpack_owner(value: bytes) -> Owner:
    return _json.loads(value, Owner)
