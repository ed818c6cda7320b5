"""What happened, written outside of the database: one line per event, appended whole by any number of processes."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


class History:
    """An append-only file. `O_APPEND` keeps each short write in one piece beside those of others."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, event: str, **fields: Any) -> None:
        line = {"event": event, "pid": os.getpid(), "at": time.time(), "mono": time.monotonic(), **fields}
        # a line of its own, even after one that a kill has cut off, which some kernels do
        os.write(self._fd, f"\n{json.dumps(line, default=str)}\n".encode())

    def close(self) -> None:
        os.close(self._fd)


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All events, in the order in which they were written."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return list(_whole(text.splitlines()))


def _whole(lines: Iterable[str | bytes]) -> Iterator[dict[str, Any]]:
    """Without events that were cut off: their processes did not come to the end of writing them."""
    for line in filter(None, lines):
        with contextlib.suppress(ValueError):
            yield json.loads(line)


class Tail:
    """The events that came since the last look."""

    def __init__(self, path: str | os.PathLike[str], *, from_now: bool = False) -> None:
        self._path = Path(path)
        self._place = self._path.stat().st_size if from_now and self._path.exists() else 0

    def new(self) -> list[dict[str, Any]]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._place)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data.rfind(b"\n") + 1
        self._place += whole
        return list(_whole(data[:whole].splitlines()))
