"""What happened, written outside of the database: one line per event, appended whole by any number of processes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


class History:
    """An append-only file. `O_APPEND` keeps each short write whole, even if others write or are killed."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, event: str, **fields: Any) -> None:
        line = {"event": event, "pid": os.getpid(), "at": time.time(), "mono": time.monotonic(), **fields}
        os.write(self._fd, (json.dumps(line, default=str) + "\n").encode())

    def close(self) -> None:
        os.close(self._fd)


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All events, in the order in which they were written."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines()]


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
        return [json.loads(line) for line in data[:whole].splitlines()]
