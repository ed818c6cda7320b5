"""Who runs jobs on a database: the table `aether_owners`, and a look at each one's lock (PROTOCOL P1 to P3)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, Literal
from uuid import UUID

import attrs

from aether_bg.cli.database import Reading
from aether_bg.explain import Around
from aether_bg.plugins.sqlite.locks import OwnerLocks
from aether_bg.plugins.sqlite.rows import from_time

SILENT: Final = 60.0
"""Seconds without a heartbeat after which a process not proven dead is called silent: four default leases."""


@attrs.frozen(kw_only=True)
class Process:
    """`state`: alive; dead (its lock is free); silent (no heartbeat for a minute, by the wall clock)."""

    id: UUID
    state: Literal["alive", "dead", "silent"]
    host: str
    pid: int
    started_at: datetime
    beat_at: datetime
    handlers: frozenset[str]
    problems: tuple[str, ...]
    """Declarations that it could not apply."""

    @property
    def name(self) -> str:
        return f"process {self.pid} on {self.host}"


def processes(database: Reading) -> list[Process]:
    """All that are registered, oldest first."""
    now = datetime.now(UTC)
    locks = OwnerLocks(database.path)
    found = []
    try:
        for id_, host, pid, started, beat, handlers, problems in database.rows(
            "SELECT id, host, pid, started_at, beat_at, iif(stopping, '[]', handlers), problems FROM aether_owners "
            "ORDER BY started_at"
        ):
            started_at, beat_at = from_time(started), from_time(beat)
            assert started_at is not None
            assert beat_at is not None  # both columns are NOT NULL
            silent = (now - beat_at).total_seconds() > SILENT
            state: Literal["alive", "dead", "silent"] = "silent" if silent else "alive"
            found.append(
                Process(
                    id=UUID(id_), state="dead" if locks.dead(UUID(id_)) else state, host=host, pid=pid,
                    started_at=started_at, beat_at=beat_at, handlers=frozenset(json.loads(handlers)),
                    problems=tuple(json.loads(problems)),
                )
            )  # fmt: skip
    finally:
        locks.close()  # lets go at once: the lock of a dead one is for those who recover its jobs
    return found


def around(known: Iterable[Process]) -> Around:
    """The same for `explain`."""
    known = list(known)
    live = [process for process in known if process.state == "alive"]
    gone = {
        process.id: "has died"
        if process.state == "dead"
        else f"has given no sign since {process.beat_at:%Y-%m-%d %H:%M:%SZ}"
        for process in known
        if process.state != "alive"
    }
    return Around(
        owners={process.id: process.name for process in live},
        gone=gone,
        handlers=frozenset(name for process in live for name in process.handlers),
    )
