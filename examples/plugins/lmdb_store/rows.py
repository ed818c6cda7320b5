"""Rows and their index, as one transaction sees them.

Rows are JSON. The index has one entry for each way in which a row is looked up; the byte order of its keys is the order
in which they are read. An entry is a function of its row, so a write compares the entries before and after.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import chain, islice, product, takewhile
from typing import Any
from uuid import UUID

import attrs
import lmdb

from aether_bg import JobInfo, JobRun, JobStatus, RunOutcome
from aether_bg.model import Claim, FailureGroup, Failures, Hold, Purge, Query, Stats
from aether_bg.owners import OwnerFolder
from aether_bg.rows import Rows, pack, unpack

from .environment import Environment, Transaction

ID = 16  # bytes of a UUID, and of the digest of a name
LAST = b"\xff" * 33  # after everything that follows a prefix
ACTIVE = (JobStatus.SCHEDULED, JobStatus.RUNNING)
_START = datetime.min.replace(tzinfo=UTC)

NAMED = b"n"  # + name's digest + 0 for its holder, else 1 + id
KIND = b"k"  # + handler's digest + status + paused + id: the handler
READY = b"d"  # + handler's digest + lane (suspect, manual; priority) + due_at + id: the handler
UNARMED = b"u"  # + due_at + id
ENDED = b"e"  # + status + handled_time + id
COMPLETED = b"c"  # + job's id + occurrence: token
PAUSED = b"p"  # + handler's digest: the handler
PARENTS = b"a"  # + child's id: its parents' ids, in their order
CHILD = b"b"  # + parent's id + child's id: not empty while the child waits


def digest(name: str) -> bytes:
    """For a name of any length: LMDB's keys have at most 511 bytes."""
    return blake2b(name.encode(), digest_size=ID).digest()


def instant(at: datetime | None) -> bytes:
    """Earlier before later, None before all."""
    return number(0 if at is None else (at - _START) // timedelta(microseconds=1))


def number(value: int) -> bytes:
    return value.to_bytes(8)


def job_entries(job: JobInfo) -> dict[bytes, bytes]:
    """What the index holds about this row."""
    id_, handler, active = job.id.bytes, job.handler_name.encode(), not job.status.terminal
    entries = {
        NAMED + digest(job.job_name) + bytes([not job.holds_name]) + id_: b"",
        KIND + digest(job.handler_name) + bytes([job.status, job.paused and active]) + id_: handler,
    }
    if job.waiting and job.due_at is not None:
        lane = bytes([job.suspect + 2 * job.manual, 100 - job.priority])
        entries[READY + digest(job.handler_name) + lane + instant(job.due_at) + id_] = handler
        if job.armed_seq != job.seq:
            entries[UNARMED + instant(job.due_at) + id_] = b""
    if job.status.terminal:
        entries[ENDED + bytes([job.status]) + instant(job.handled_time) + id_] = b""
    return entries


def run_key(run: JobRun) -> bytes:
    return run.job_id.bytes + number(run.token) + number(run.gap)


def run_entries(run: JobRun) -> dict[bytes, bytes]:
    if run.outcome is not RunOutcome.COMPLETED:
        return {}
    return {COMPLETED + run.job_id.bytes + instant(run.occurrence): number(run.token)}


class LMDBRows(Rows):
    def __init__(self, txn: Transaction, environment: Environment, owners: OwnerFolder) -> None:
        self._txn, self._environment, self._index = txn, environment, environment.index
        self._owners = owners

    # -- rows, each with its entries ---------------------------------------------------------------

    def job(self, job_id: UUID) -> JobInfo | None:
        value = self._txn.get(job_id.bytes, db=self._environment.jobs)
        return None if value is None else unpack(value, JobInfo)

    def jobs(self) -> Iterator[JobInfo]:
        return (unpack(value, JobInfo) for _, value in self._scan(self._environment.jobs))

    def holder(self, name: str) -> JobInfo | None:
        return next(self._found(NAMED + digest(name) + b"\0"), None)

    def put_job(self, job: JobInfo, before: JobInfo | None = None) -> None:
        self._txn.put(job.id.bytes, pack(job).encode(), db=self._environment.jobs)
        self._enter(job_entries(before) if before else {}, job_entries(job))

    def delete_job(self, job: JobInfo) -> None:
        for run in self.history(job.id):
            self.delete_run(run)
        links = {CHILD + parent.bytes + job.id.bytes: b"" for parent in self.parents(job.id)}
        self._txn.delete(job.id.bytes, db=self._environment.jobs)
        self._enter(job_entries(job) | links | {PARENTS + job.id.bytes: b""}, {})

    def runs(self) -> Iterator[JobRun]:
        return (unpack(value, JobRun) for _, value in self._scan(self._environment.runs))

    def history(self, job_id: UUID, limit: int | None = None) -> list[JobRun]:
        rows = list(self._scan(self._environment.runs, job_id.bytes))
        return [unpack(value, JobRun) for _, value in rows[::-1][:limit]]

    def put_run(self, run: JobRun) -> None:
        self._txn.put(run_key(run), pack(run).encode(), db=self._environment.runs)
        self._enter({}, run_entries(run))

    def delete_run(self, run: JobRun) -> None:
        self._txn.delete(run_key(run), db=self._environment.runs)
        self._enter(run_entries(run), {})

    def completed(self, job_id: UUID, occurrence: datetime | None) -> int | None:
        token = self._txn.get(COMPLETED + job_id.bytes + instant(occurrence), db=self._index)
        return None if token is None else int.from_bytes(token)

    def held(self) -> set[str]:
        return {name.decode() for _, name in self.scan(PAUSED)}

    def hold(self, hold: Hold) -> None:
        entry = {PAUSED + digest(hold.handler): hold.handler.encode()}
        self._enter({} if hold.held else entry, entry if hold.held else {})

    def parents(self, child: UUID) -> Sequence[UUID]:
        ids = self._txn.get(PARENTS + child.bytes, db=self._index) or b""
        return [UUID(bytes=ids[at : at + ID]) for at in range(0, len(ids), ID)]

    def children(self, parent: UUID) -> Iterator[UUID]:
        return self._ids(CHILD + parent.bytes)

    def link(self, child: UUID, parents: Sequence[UUID]) -> None:
        links = {CHILD + parent.bytes + child.bytes: b"" for parent in parents}
        self._enter({}, links | {PARENTS + child.bytes: b"".join(parent.bytes for parent in parents)})

    def await_end(self, parent: UUID, child: UUID) -> None:
        self._enter({}, {CHILD + parent.bytes + child.bytes: b"waits"})

    def no_longer_awaited(self, parent: UUID) -> Sequence[UUID]:
        waiting = [key for key, waits in self.scan(CHILD + parent.bytes) if waits]
        self._enter({}, dict.fromkeys(waiting, b""))
        return [UUID(bytes=key[-ID:]) for key in waiting]

    def knows(self, owner: UUID) -> bool:
        return self._owners.knows(owner)

    # -- queries, by index -------------------------------------------------------------------------

    def claimable(self, claim: Claim) -> Iterator[JobInfo]:
        """RUNNING rows, and of each handler and lane those that are due first: enough to fill the claim, and to say
        what comes next."""
        held = self.held()
        if claim.limits:
            yield from self._running()
        if claim.job_id is not None:
            if job := self.job(claim.job_id):
                yield job.under(held)
            return
        for handler, suspect, manual in product(claim.handlers, (False, True)[: 1 + claim.suspect], (False, True)):
            if manual or handler not in held:
                prefix = READY + digest(handler) + bytes([suspect + 2 * manual])
                for lane in self._groups(prefix, len(prefix) + 1):
                    jobs = (job.under(held) for job in self._found(lane))
                    yield from islice(filter(claim.asks_for, jobs), claim.limit + 1)

    def running_or_due(self) -> list[JobInfo]:
        first, held = (next(self._found(lane)) for lane in self._groups(READY, 1 + ID + 2)), self.held()
        return list(chain(self._running(), (job.under(held) for job in first)))

    def purgeable(self, purge: Purge) -> list[JobInfo]:
        first = b"" if purge.before is None and purge.keep is None else number(1)  # 0: without `handled_time`
        ended = (ENDED + bytes([status]) for status in JobStatus if purge.status in (None, status))
        scans = (self._scan(self._index, prefix, first) for prefix in ended)
        keys = [key for key, _ in heapq.merge(*scans, key=lambda entry: entry[0][2:])]
        gone = list[JobInfo]()
        for key in keys if purge.keep is None else keys[: -purge.keep or None]:
            if len(gone) == purge.limit or (purge.before is not None and key[2:-ID] >= instant(purge.before)):
                break
            children = map(self.job, self.children(UUID(bytes=key[-ID:])))
            if all(child is None or child.status.terminal for child in children):  # docs/protocol.md, A4
                gone += filter(None, [self.job(UUID(bytes=key[-ID:]))])
        return gone

    def find(self, query: Query) -> list[JobInfo]:
        held = self.held()
        few = (query.job_name, query.parents_of, query.children_of) != (None, None, None)
        if query.order == "created" and not few:
            ids = self._by_id(query)
        elif query.order == "due" and not few and (query.unarmed or query.due_before):
            ids = self._by_due(query)
        else:
            ids = iter({*self._by_id(attrs.evolve(query, after=None)), *([query.after] if query.after else [])})
            return query.select((job.under(held) for job in self._rows(ids)), self.links(query))
        found = (job.under(held) for job in self._rows(ids))
        return list(islice(filter(query.matches, found), query.limit))  # reads no further than needed

    def _by_due(self, query: Query) -> Iterator[UUID]:
        """Ids of waiting rows beyond `after`, in the order of (due_at, id)."""
        prefix = READY + (digest(query.handler_name) if query.handler_name is not None else b"")
        lanes = [UNARMED] if query.unarmed else list(self._groups(prefix, 1 + ID + 2))
        keys = heapq.merge(*((key[-8 - ID :] for key, _ in self.scan(lane)) for lane in lanes))
        if query.after is not None:
            last = self.job(query.after)
            start = LAST if last is None else instant(last.due_at) + last.id.bytes  # nothing follows a row that is gone
            keys = (key for key in keys if key > start)
        end = LAST if query.due_before is None else instant(query.due_before) + LAST
        return (UUID(bytes=key[8:]) for key in takewhile(lambda key: key <= end, keys))

    def _by_id(self, query: Query) -> Iterator[UUID]:
        """Ids beyond `after`, in their order: by the entries that leave the fewest rows to read."""
        after, status = query.after.bytes if query.after else b"", query.status
        if query.ids is not None:
            return iter(sorted(id_ for id_ in set(query.ids) if id_.bytes > after))
        if query.parents_of is not None:
            return iter(self.parents(query.parents_of))
        if query.due_before or query.changed_after or query.zoned or query.unarmed:
            status = (JobStatus.SCHEDULED,)
        elif query.owner is not None:
            status = (JobStatus.RUNNING,)
        elif query.paused or query.declared:
            status = ACTIVE
        names = query.holders if query.job_name is None else (query.job_name,)
        if query.children_of is not None:
            prefixes = [CHILD + query.children_of.bytes]
        elif names is not None:
            prefixes = [NAMED + digest(name) + flag for name, flag in product(set(names), (b"\0", b"\1"))]
        elif query.handler_name is not None or status is not None:
            prefix = KIND if query.handler_name is None else KIND + digest(query.handler_name)
            kinds = product(self._groups(prefix, 1 + ID), set(status or JobStatus), (False, True))
            prefixes = [handler + bytes([status, paused]) for handler, status, paused in kinds]
        else:
            every = self._scan(self._environment.jobs, b"", after)
            return (UUID(bytes=key) for key, _ in every if key > after)
        ids = heapq.merge(*(self._ids(prefix, after) for prefix in prefixes))
        return (id_ for id_ in ids if id_.bytes > after)

    def failures(self, query: Failures) -> list[FailureGroup]:
        return query.select(self._found(ENDED + bytes([JobStatus.FAILED])))

    def stats(self) -> Stats:
        """Counted in the index: no row is read."""
        by_handler, paused, held, now = dict[str, Counter[str]](), 0, self.held(), instant(datetime.now(UTC))
        for key, handler in self.scan(KIND):
            by_handler.setdefault(handler.decode(), Counter())[JobStatus(key[1 + ID]).name.lower()] += 1
            paused += key[2 + ID]
        ready = [(key[1 + ID] >= 2, key[-8 - ID : -ID], handler) for key, handler in self.scan(READY)]
        waiting = [due for manual, due, handler in ready if manual or handler.decode() not in held]
        total: dict[str, Any] = sum(by_handler.values(), Counter[str]())
        return Stats(
            store_id=self._environment.store_id, **total, paused=paused, due=sum(due <= now for due in waiting),
            oldest_due=_START + timedelta(microseconds=int.from_bytes(min(waiting))) if waiting else None,
            owners=self._owners.count(), runs=self._txn.stat(self._environment.runs)["entries"],
            size=self._environment.size(), by_handler=by_handler, paused_handlers=tuple(sorted(held)),
        )  # fmt: skip

    # -- keys --------------------------------------------------------------------------------------

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The index's entries with this prefix."""
        return self._scan(self._index, prefix)

    def _scan(self, db: lmdb._Database, prefix: bytes = b"", after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor(db) as cursor:
            if cursor.set_range(prefix + after):
                for key, value in cursor.iternext():
                    if not key.startswith(prefix):
                        return
                    yield key, value

    def _groups(self, prefix: bytes, length: int) -> Iterator[bytes]:
        """The different beginnings, of this length, of the keys with this prefix."""
        after = b""
        while entry := next(self._scan(self._index, prefix, after), None):
            yield entry[0][:length]
            after = entry[0][len(prefix) : length] + LAST

    def _ids(self, prefix: bytes, after: bytes = b"") -> Iterator[UUID]:
        return (UUID(bytes=key[-ID:]) for key, _ in self._scan(self._index, prefix, after))

    def _found(self, prefix: bytes) -> Iterator[JobInfo]:
        return self._rows(self._ids(prefix))

    def _rows(self, ids: Iterable[UUID]) -> Iterator[JobInfo]:
        return filter(None, map(self.job, ids))

    def _running(self) -> Iterator[JobInfo]:
        return self._rows(self._by_id(Query(status=(JobStatus.RUNNING,))))

    def _enter(self, old: dict[bytes, bytes], new: dict[bytes, bytes]) -> None:
        """Entries of the index instead of others."""
        for key in old.keys() - new.keys():
            self._txn.delete(key, db=self._index)
        for key, value in new.items() - old.items():
            self._txn.put(key, value, db=self._index)
