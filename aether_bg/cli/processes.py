"""Who runs jobs on a database: the table `aether_owners`, and a look at each one's lock (PROTOCOL P1 to P3)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal
from uuid import UUID

import attrs
from attrs import field
from attrs.validators import deep_iterable, instance_of

from aether_bg.cli.database import Reading
from aether_bg.explain import Around
from aether_bg.plugins.sqlite.columns import from_time
from aether_bg.plugins.sqlite.locks import OwnerLocks

SILENT: Final = 60.0
"""Seconds without a heartbeat after which a process not proven dead is called silent: four default leases."""


@attrs.frozen(kw_only=True)
class Process:
    """`state`: alive; dead (its lock is free); silent (no heartbeat for a minute, by the wall clock)."""

    id: UUID
    state: Literal["alive", "dead", "silent"]
    host: str = field(validator=instance_of(str))
    pid: int = field(validator=instance_of(int))
    started_at: datetime = field(validator=instance_of(datetime))
    beat_at: datetime = field(validator=instance_of(datetime))
    handlers: frozenset[str] = field(validator=deep_iterable(instance_of(str)))
    problems: tuple[str, ...] = field(validator=deep_iterable(instance_of(str)))
    """Declarations that it could not apply."""

    @property
    def name(self) -> str:
        return f"process {self.pid} on {self.host}"


def processes(database: Reading) -> list[Process]:
    """All that are registered, oldest first; rows that cannot be read are left out (`check` names them)."""
    now = datetime.now(UTC)
    locks = OwnerLocks(database.path)
    found = []
    try:
        for row in database.rows(
            "SELECT id, host, pid, started_at, beat_at, iif(stopping, '[]', handlers), problems FROM aether_owners "
            "ORDER BY started_at"
        ):
            process = read_process(row, now)
            if process is not None:
                found.append(attrs.evolve(process, state="dead") if locks.dead(process.id) else process)
    finally:
        locks.close()  # lets go at once: the lock of a dead one is for those who recover its jobs
    return found


def read_process(row: Sequence[Any], now: datetime) -> Process | None:
    id_, host, pid, started, beat, handlers, problems = row
    try:
        names = json.loads(handlers)
        process = Process(
            id=UUID(id_), state="alive", host=host, pid=pid, started_at=_instant(started), beat_at=_instant(beat),
            handlers=frozenset(names), problems=tuple(json.loads(problems)),
        )  # fmt: skip
        silent = (now - process.beat_at).total_seconds() > SILENT
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return None
    return attrs.evolve(process, state="silent") if silent else process


def _instant(text: str) -> datetime:
    when = from_time(text)
    if when is None:
        raise ValueError("missing")
    return when


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
