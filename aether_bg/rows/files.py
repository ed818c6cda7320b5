"""What every store needs that keeps its rows in files: rows as text, and what disks do."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

from cattrs.preconf.json import make_converter

from aether_bg.errors import StoreBroken, StoreFull, StoreReadOnly, StoreTrouble

T = TypeVar("T")

_json: Final = make_converter()
_json.register_unstructure_hook(UUID, str)
_json.register_structure_hook(UUID, lambda text, _: UUID(text))


def pack(row: Any) -> str:
    """A row, or another value of the model, as JSON text that keeps every field."""
    return _json.dumps(row, separators=(",", ":"))


def unpack(text: str | bytes, kind: type[T]) -> T:
    """What `pack` was given: `unpack(text, JobInfo)`."""
    return _json.loads(text, kind)


def disk_trouble(where: str, error: OSError) -> StoreTrouble:
    """The error for the kernel, which tries again. `where`: the file, for the message."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return StoreFull(where, str(error), "Free some space on its disk.")
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return StoreReadOnly(where, str(error), "Let this process write there.")
    return StoreBroken(where, str(error), "Look at its disk.")


def sync_folder(folder: Path) -> None:
    """Puts the names of its files on the disk. Only then does a new file, or one that was renamed, survive a power
    loss."""
    if os.name == "posix":
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
