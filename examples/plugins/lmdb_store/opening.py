"""Opens an environment, once in a process for all stores on its folder: LMDB does not allow a second time."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from uuid import UUID, uuid4

import attrs
import lmdb

from aether_bg.errors import NotADatabase, SchemaTooNew, StoreFolderMissing

from .rows import Tables
from .writer import Writer, trouble

FORMAT = b"1"


@attrs.define(eq=False)
class Shared:
    """An open environment and its one writer, for `users` stores of process `pid`."""

    tables: Tables
    writer: Writer
    users: int = 0
    pid: int = attrs.field(factory=os.getpid)


_open: dict[tuple[Path, int], Shared] = {}
_guard = threading.Lock()


def enter(path: Path, map_size: int) -> Shared:
    """Opens it, or joins the stores that have it open in this process, with their map size. Raises as `open_tables`."""
    with _guard:
        key = path.resolve(), os.getpid()
        if key not in _open:
            tables = open_tables(path, map_size)
            _open[key] = Shared(tables, Writer(tables))
        _open[key].users += 1
        return _open[key]


def leave(shared: Shared, within: float) -> None:
    """The last store closes it, when the writer has finished its work; not if that takes over `within` seconds."""
    with _guard:
        shared.users -= 1
        if not shared.users:
            for key in [key for key, each in _open.items() if each is shared]:
                del _open[key]
            if shared.writer.close(within):
                shared.tables.env.close()


def open_tables(path: Path, map_size: int) -> Tables:
    """Raises `StoreFolderMissing`, `NotADatabase`, `SchemaTooNew`, or a `StoreTrouble`."""
    if not path.parent.is_dir():
        raise StoreFolderMissing(str(path), f"the folder {str(path.parent)!r} does not exist", "Make it first.")
    if path.exists() and not path.is_dir():
        raise NotADatabase(str(path), "it is a file, and LMDB keeps a folder", "Name another path.")
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        env = lmdb.open(str(path), map_size, mode=0o600, max_dbs=8)
    except (lmdb.Error, OSError) as error:
        raise trouble(error, str(path)) from error
    try:
        env.reader_check()  # readers that died keep no pages
        tables = _tables(env)
        _sync_folder(path)
        _sync_folder(path.parent)
    except Exception as error:
        env.close()
        raise trouble(error, str(path)) from error
    return tables


def _tables(env: lmdb.Environment) -> Tables:
    names = (b"jobs", b"runs", b"index", b"owners", b"about")
    jobs, runs, index, owners, about = (env.open_db(name) for name in names)
    with env.begin(write=True) as txn:
        if txn.put(b"format", FORMAT, db=about, overwrite=False):
            txn.put(b"store_id", uuid4().bytes, db=about)
        if (found := txn.get(b"format", db=about)) != FORMAT:
            rule = f"its format is {found!r}, and this plugin reads {FORMAT!r}"
            raise SchemaTooNew(env.path(), rule, "Use the version that made it.")
        store_id = UUID(bytes=txn.get(b"store_id", db=about))
    return Tables(env, jobs, runs, index, owners, store_id)


def _sync_folder(folder: Path) -> None:
    """A new file survives a power loss only when the folder that names it is on the disk as well."""
    if os.name == "posix":
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
