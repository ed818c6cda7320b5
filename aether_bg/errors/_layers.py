"""What stores and schedulers cannot do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aether_bg.errors._base import AetherError, shown

if TYPE_CHECKING:
    from aether_bg.model.job import JobInfo


class StoreError(AetherError):
    """The store cannot carry out the operation; what it was part of has been rolled back."""


class StoreTrouble(StoreError):
    """The store itself is in trouble; nothing is wrong with what was asked, and it may be tried again."""


class StoreBusy(StoreTrouble):
    """Another process held the database past the deadline."""


class StoreContended(StoreBusy):
    """Someone else holds a row that one of several writes needs. Each write can be tried by itself."""


class StoreUnsure(StoreTrouble):
    """The answer to a write was lost: whether it happened is unknown. Repeat the same write: an `Insert` of an equal
    row counts as done, and an `Update` whose `next_seq` and `modified_at` the row shows was recorded."""


class StoreFull(StoreTrouble):
    """No space is left for the database."""


class StoreReadOnly(StoreTrouble):
    """The database or its folder cannot be written."""


class StoreGone(StoreTrouble):
    """The database file was removed or replaced while it was open."""


class StoreBroken(StoreTrouble):
    """An input/output error, or a damaged database."""


class StoreUnreachable(StoreTrouble):
    """The store's server does not answer."""


class StoreDenied(StoreTrouble):
    """The store's server refuses this user, or what it wants to do."""


class SchemaMissing(StoreError):
    """The store's server lacks tables of this version of aether_bg, and this process may not make them."""


class StoreFolderMissing(StoreError):
    """The folder of the database does not exist."""


class StoreIsDirectory(StoreError):
    """The path of the database is a folder, a link or a special file."""


class NotADatabase(StoreError):
    """The file exists and is not a SQLite database."""


class SchemaTooNew(StoreError):
    """The database was written by a newer version of aether_bg."""


class TablesTaken(StoreError):
    """The file has tables named like those of aether_bg that something else created."""


class StoreRefused(StoreError):
    """A constraint of the schema refused a write by the kernel."""


class DeniedSQL(StoreError):
    """A unit of work must not end or escape its transaction, nor change our tables (docs/protocol.md, W7 and W11)."""


class UnitOfWorkTimeout(StoreError, TimeoutError):
    """A unit of work, or one statement of it, held the database for too long. Nothing of it was written."""


class Unsupported(StoreError):
    """This store cannot do it: it has no SQL to run, or no connection but its own reaches it."""


class Stale(StoreError):
    """An `Update` or a `Note` presented a seq or schedule_rev that is no longer current. `job_id`: the job; `current`:
    the row now, None if it is gone."""

    def __init__(self, job_id: object, current: JobInfo | None) -> None:
        self.job_id, self.current = job_id, current
        super().__init__(f"job {job_id}", "its row has changed since it was read", "Read it again, and decide again.")


class NameHeld(StoreError):
    """An `Insert` (or an `Update` that takes a name back) found the name held. `current`: the holder."""

    def __init__(self, name: str, current: JobInfo) -> None:
        self.current = current
        super().__init__(f"job name {shown(name)}", "another job holds it", "Read that job, and decide again.")


class SchedulerError(AetherError):
    """The scheduling layer cannot work as configured."""


class SchedulerUnavailable(SchedulerError):
    """The engine (for example a Dapr sidecar) does not answer."""


class SchedulerMisconfigured(SchedulerError):
    """The engine answers, but not in the way the plugin needs."""
