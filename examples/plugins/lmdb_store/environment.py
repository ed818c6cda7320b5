"""LMDB itself: opening its folder, transactions in threads, and its errors."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias, TypeVar
from uuid import UUID, uuid4

import anyio
import lmdb

from aether_bg import errors
from aether_bg.bridge import Bridge
from aether_bg.rows import disk_trouble, sync_folder

T = TypeVar("T")
Transaction: TypeAlias = "lmdb.Transaction[bytes]"
FORMAT = b"2"

_shared: dict[tuple[Path, int], Environment] = {}
_guard = threading.Lock()


class Environment:
    """An open folder. LMDB allows it once in a process, so all stores of a process share it: `enter` and `leave`."""

    def __init__(self, path: Path, map_size: int) -> None:
        """Raises `StoreFolderMissing`, `NotADatabase`, `SchemaTooNew`, or a `StoreTrouble`."""
        if not path.parent.is_dir():
            raise errors.StoreFolderMissing(
                str(path), f"the folder {str(path.parent)!r} does not exist", "Make it first."
            )
        if path.exists() and not path.is_dir():
            raise errors.NotADatabase(str(path), "it is a file, and LMDB keeps a folder", "Name another path.")
        try:
            path.mkdir(mode=0o700, exist_ok=True)
            self.env = lmdb.open(str(path), map_size, mode=0o600, max_dbs=4)
        except (lmdb.Error, OSError) as error:
            raise trouble(error, path) from error
        self.path, self.pid, self.users, self._writing = path, os.getpid(), 0, set[threading.Thread]()
        try:
            self.env.reader_check()  # readers that died keep no pages
            self.jobs, self.runs, self.index = (self.env.open_db(name) for name in (b"jobs", b"runs", b"index"))
            self.store_id = self._about()
            for folder in (path, path.parent):
                sync_folder(folder)
        except Exception as error:
            self.env.close()
            raise trouble(error, path) from error

    def _about(self) -> UUID:
        about = self.env.open_db(b"about")
        with self.env.begin(write=True, db=about) as txn:
            if txn.put(b"format", FORMAT, overwrite=False):
                txn.put(b"store_id", uuid4().bytes)
            if (found := txn.get(b"format")) != FORMAT:
                rule = f"its format is {found!r}, and this plugin reads {FORMAT!r}"
                raise errors.SchemaTooNew(str(self.path), rule, "Use the version that made it.")
            return UUID(bytes=txn.get(b"store_id"))

    @classmethod
    def enter(cls, path: Path, map_size: int) -> Environment:
        """Opens it, or joins the stores that have it open in this process, with their map size."""
        with _guard:
            key = path.resolve(), os.getpid()
            environment = _shared[key] = _shared.get(key) or cls(path, map_size)
            environment.users += 1
            return environment

    def leave(self, within: float) -> None:
        """The last store closes it; not while a write still waits for another process, `within` seconds from now."""
        with _guard:
            self.users -= 1
            if not self.users:
                del _shared[self.path.resolve(), self.pid]
                for thread in list(self._writing):
                    thread.join(within)
                if not self._writing:
                    self.env.close()

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Over one snapshot."""
        try:
            with self.env.begin() as txn:
                return work(txn)
        except lmdb.Error as error:
            raise trouble(error, self.path) from error

    async def write(self, work: Callable[[Transaction], T], within: float) -> T:
        """Completely or not at all, and on the disk when this returns; goes on if the caller is cancelled.

        LMDB has one writer at a time, over all processes. Raises `StoreBusy` if this one's turn has not come `within`
        seconds; then it never will.
        """
        future, bridge, done = Future[T](), Bridge(), anyio.Event()
        future.add_done_callback(lambda _: bridge.post(done.set))
        thread = threading.Thread(target=self._write, args=(work, future), name="lmdb writer", daemon=True)
        self._writing.add(thread)
        thread.start()
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(within):
                await done.wait()
            if future.cancel():
                rule = f"another process has held its lock for {within:g} s"
                raise errors.StoreBusy(str(self.path), rule, "See whether one is stopped or in a debugger.")
            await done.wait()
        return future.result()

    def _write(self, work: Callable[[Transaction], T], future: Future[T]) -> None:
        try:
            with self.env.begin(write=True) as txn:
                if not future.set_running_or_notify_cancel():
                    return  # its caller is gone
                answer = work(txn)
        except Exception as error:
            with suppress(InvalidStateError):  # its caller is gone
                future.set_exception(trouble(error, self.path))
        else:
            future.set_result(answer)
        finally:
            self._writing.discard(threading.current_thread())

    def last_commit(self) -> int:
        return self.env.info()["last_txnid"]

    def size(self) -> int:
        """Bytes of the pages in use."""
        return self.env.stat()["psize"] * (self.env.info()["last_pgno"] + 1)


def trouble(error: Exception, path: Path) -> Exception:
    """The error for the hooks; one that may be tried again is a `StoreTrouble`."""
    match error:
        case OSError():
            return disk_trouble(str(path), error)
        case lmdb.DiskError() if "space" in str(error):
            return errors.StoreFull(str(path), str(error), "Free some space on its disk.")
    for raised, kind, remedy in TROUBLE:
        if isinstance(error, raised):
            return kind(str(path), str(error), remedy)
    return error


TROUBLE: list[tuple[type[Exception], type[errors.StoreError], str]] = [
    (lmdb.MapFullError, errors.StoreFull, "Purge jobs that have ended, or open it with a larger map_size."),
    (lmdb.ReadersFullError, errors.StoreBusy, "Open it in fewer processes."),
    (lmdb.MapResizedError, errors.StoreBroken, "Give every process the same map_size."),
    (lmdb.InvalidError, errors.NotADatabase, "Name a folder that LMDBStore made, or one that is not there."),
    (lmdb.VersionMismatchError, errors.NotADatabase, "Name a folder that LMDBStore made, or one that is not there."),
    (lmdb.Error, errors.StoreBroken, "Look at the disk, and at the folder's permissions."),
]
