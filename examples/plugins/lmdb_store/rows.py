"""The rows as one transaction sees them: read and written together with their index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from uuid import UUID

import attrs
import lmdb

from aether_bg import JobInfo, JobRun
from aether_bg.model import Owner

from . import layout


@attrs.frozen(eq=False)
class Tables:
    """The four databases of an environment, and its id."""

    env: lmdb.Environment
    jobs: lmdb._Database
    runs: lmdb._Database
    index: lmdb._Database
    owners: lmdb._Database
    store_id: UUID


@attrs.frozen(eq=False)
class Rows:
    """What `txn` sees. The writing methods need a transaction that may write."""

    txn: lmdb.Transaction[bytes]
    tables: Tables

    def job(self, job_id: UUID) -> JobInfo | None:
        value = self.txn.get(job_id.bytes, db=self.tables.jobs)
        return None if value is None else layout.unpack_job(value)

    def holder(self, name: str) -> JobInfo | None:
        """The job that holds this name."""
        found = next(self.index(layout.HOLDER + layout.digest(name)), None)
        return None if found is None else self.job(UUID(bytes=found[0][-layout.ID :]))

    def runs(self, job_id: UUID) -> Iterator[tuple[bytes, bytes]]:
        """(key, row) of a job's history, newest first."""
        return self._scan(self.tables.runs, job_id.bytes, newest_first=True)

    def index(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Entries with this prefix, beyond the key `after`."""
        return self._scan(self.tables.index, prefix, after)

    def jobs(self, entries: Iterable[tuple[bytes, bytes]]) -> Iterator[JobInfo]:
        """The rows of entries of the index."""
        found = (self.job(UUID(bytes=key[-layout.ID :])) for key, _ in entries)
        return (job for job in found if job is not None)

    def held(self) -> set[str]:
        """Handlers that are paused."""
        return {name.decode() for _, name in self.index(layout.PAUSED_HANDLER)}

    def lanes(self, prefix: bytes) -> Iterator[bytes]:
        """The prefixes of ready rows that differ only in their due instant."""
        position = prefix
        while entry := next(self.index(prefix, position), None):
            yield (found := layout.lane(entry[0]))
            position = found + layout.AFTER_ALL

    def every_job(self, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return self._scan(self.tables.jobs, b"", after)

    def every_run(self) -> Iterator[tuple[bytes, bytes]]:
        return self._scan(self.tables.runs, b"")

    def owners(self) -> dict[UUID, Owner]:
        """The registered owners."""
        rows = self._scan(self.tables.owners, b"")
        return {UUID(bytes=key): layout.unpack_owner(value) for key, value in rows}

    def owner(self, owner: UUID) -> Owner | None:
        value = self.txn.get(owner.bytes, db=self.tables.owners)
        return None if value is None else layout.unpack_owner(value)

    def _scan(
        self, db: lmdb._Database, prefix: bytes, after: bytes = b"", newest_first: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        with self.txn.cursor(db) as cursor:
            if newest_first:
                found = cursor.set_range(prefix + layout.AFTER_ALL)
                found = cursor.prev() if found else cursor.last()
            else:
                found = cursor.set_range(max(prefix, after)) if prefix or after else cursor.first()
            if not found:
                return
            for key, value in cursor.iterprev() if newest_first else cursor.iternext():
                if not key.startswith(prefix):
                    return
                if key != after:
                    yield key, value

    def parents(self, child: UUID) -> list[UUID]:
        """The jobs it runs after, in the order given."""
        return [UUID(bytes=value) for _, value in self.index(layout.PARENT + child.bytes)]

    def children(self, parent: UUID) -> list[UUID]:
        return [UUID(bytes=key[-layout.ID :]) for key, _ in self.index(layout.CHILD + parent.bytes)]

    # -- writing --

    def link(self, child: UUID, parents: Sequence[UUID]) -> None:
        for place, parent in enumerate(parents):
            self.txn.put(layout.PARENT + child.bytes + layout.number(place), parent.bytes, db=self.tables.index)
            self.txn.put(layout.CHILD + parent.bytes + child.bytes, b"", db=self.tables.index)

    def await_end(self, child: UUID, parent: UUID) -> None:
        self.txn.put(layout.AWAITED + parent.bytes + child.bytes, b"", db=self.tables.index)

    def no_longer_awaited(self, parent: UUID) -> list[UUID]:
        """The children that waited for it."""
        keys = [key for key, _ in self.index(layout.AWAITED + parent.bytes)]
        for key in keys:
            self.txn.delete(key, db=self.tables.index)
        return [UUID(bytes=key[-layout.ID :]) for key in keys]

    def put_job(self, new: JobInfo, old: JobInfo | None = None) -> None:
        self.txn.put(new.id.bytes, layout.pack(new), db=self.tables.jobs)
        self._index(layout.job_entries(old) if old else {}, layout.job_entries(new))

    def hold(self, handler: str, held: bool) -> None:
        key = layout.PAUSED_HANDLER + layout.digest(handler)
        if held:
            self.txn.put(key, handler.encode(), db=self.tables.index)
        else:
            self.txn.delete(key, db=self.tables.index)

    def put_run(self, new: JobRun) -> None:
        key = layout.run_key(new)
        old = self.txn.get(key, db=self.tables.runs)
        self.txn.put(key, layout.pack(new), db=self.tables.runs)
        self._index(layout.run_entries(layout.unpack_run(old)) if old else {}, layout.run_entries(new))

    def delete_job(self, job: JobInfo) -> None:
        """Deletes it with its history and its links to parents."""
        for parent in self.parents(job.id):
            for kind in (layout.CHILD, layout.AWAITED):
                self.txn.delete(kind + parent.bytes + job.id.bytes, db=self.tables.index)
        for key, _ in list(self.index(layout.PARENT + job.id.bytes)):
            self.txn.delete(key, db=self.tables.index)
        for key, value in list(self.runs(job.id)):
            self.delete_run(key, value)
        self.txn.delete(job.id.bytes, db=self.tables.jobs)
        self._index(layout.job_entries(job), {})

    def delete_run(self, key: bytes, value: bytes) -> None:
        self.txn.delete(key, db=self.tables.runs)
        self._index(layout.run_entries(layout.unpack_run(value)), {})

    def put_owner(self, id_: UUID, owner: Owner) -> None:
        self.txn.put(id_.bytes, layout.pack(owner), db=self.tables.owners)

    def delete_owner(self, owner: UUID) -> None:
        self.txn.delete(owner.bytes, db=self.tables.owners)

    def _index(self, old: Mapping[bytes, bytes], new: Mapping[bytes, bytes]) -> None:
        for key in old.keys() - new.keys():
            self.txn.delete(key, db=self.tables.index)
        for key, value in new.items() - old.items():
            self.txn.put(key, value, db=self.tables.index)
