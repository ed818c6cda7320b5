"""Opening an environment: its folder, its format, its id."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID, uuid4

import lmdb

from aether_bg.errors import NotADatabase, SchemaTooNew, StoreFolderMissing

from .rows import Tables
from .writer import trouble

FORMAT = b"1"


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
    """A new file survives a power loss only when the folder that names it is on the disk, too."""
    if os.name == "posix":
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
