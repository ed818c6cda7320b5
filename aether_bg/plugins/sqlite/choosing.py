"""Which due rows a claim takes, found by index: `Claim.deal` over no more rows than are needed (docs/protocol.md, L).

A **lane** is the waiting rows of one handler at one priority: the index has them in the order of their due instants.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Final, NamedTuple

from aether_bg.model import Claim
from aether_bg.plugins.sqlite.columns import readable_time, to_time
from aether_bg.plugins.sqlite.schema import MANUAL, NOT_HELD, READY, SUSPECT

_MOST_LANES: Final = 50
"""The most lanes that one claim reads, the best first: this limits the length of the statement, and what is read."""
_MOST_ROWS: Final = 2**62
"""One more than that is still an integer of SQLite's, whatever the concurrency of the app."""

READABLE: Final = (
    "AND expression_value || char(10) || coalesce(timezone, '') NOT IN (SELECT value FROM json_each(:unreadable))"
)
"""Part of the statements below only while this process knows schedules that it cannot read (docs/protocol.md, C8)."""
RUNNING: Final = "SELECT handler_name, count(*) FROM main.aether_jobs WHERE status = 1 GROUP BY handler_name"
EXACTLY: Final = f"""
SELECT rowid, handler_name, priority, due_at FROM main.aether_jobs
WHERE id = ? AND seq = ? AND due_at <= ? AND {READY} AND {NOT_HELD}
"""


_LATER: Final = """
SELECT due_at FROM main.aether_jobs WHERE {ready} AND handler_name = :handler0 AND priority = :priority0 {more}
AND due_at > :now AND due_at < x'' ORDER BY due_at LIMIT 1
"""


def lanes_of(names: str, ready: str) -> str:
    """A common table expression: the lanes of the handlers that `names` selects (a column `name`). `ready`: which rows,
    exactly as in a partial index. One step of the index for each lane, however many rows wait."""
    rows = f"SELECT max(priority) FROM main.aether_jobs WHERE {ready} AND handler_name ="
    return f"""lane(handler, priority) AS (
    SELECT name, ({rows} name) FROM ({names})
    UNION ALL
    SELECT handler, ({rows} lane.handler AND priority < lane.priority) FROM lane WHERE priority IS NOT NULL
)"""


@cache
def _heads(ready: str, more: str) -> str:
    """Each lane, with the earliest due instant of those of its rows for which `more` holds."""
    return f"""
WITH RECURSIVE {lanes_of("SELECT value AS name FROM json_each(:handlers)", ready)}
SELECT handler, priority, (
    SELECT due_at FROM main.aether_jobs WHERE {ready} AND handler_name = lane.handler
    AND aether_jobs.priority = lane.priority {more} AND due_at > '' AND due_at < x'' ORDER BY due_at LIMIT 1
) AS due FROM lane WHERE due IS NOT NULL
"""


@cache
def _earliest(ready: tuple[str, ...], more: str) -> str:
    """The earliest due rows of some lanes, each read in the order of its index."""
    each = [
        f"SELECT * FROM (SELECT {number} AS lane, rowid AS id, due_at FROM main.aether_jobs WHERE {rows} "
        f"AND handler_name = :handler{number} AND priority = :priority{number} AND due_at <= :now {more} "
        f"ORDER BY due_at LIMIT :most{number})"
        for number, rows in enumerate(ready)
    ]
    return " UNION ALL ".join(each)


class Lane(NamedTuple):
    """`ready`: the part of the WHERE clause that finds its rows; `due`: the due instant of its earliest row."""

    handler: str
    priority: Any
    due: str
    ready: str


class Due(NamedTuple):
    """A due row, as far as `Claim.deal` needs it. `id`: its rowid, by which it is taken."""

    id: int
    handler_name: str
    priority: int
    due_at: datetime | None
    suspect: bool = False


class Choice:
    """One claim, inside its transaction. `held`: handlers that are paused; of these only `manual` rows are found.
    `suspects`: whether any suspect waits. `odd`: for rows that JSON cannot carry."""

    def __init__(
        self, conn: sqlite3.Connection, wanted: Claim, held: Sequence[str], *, suspects: bool = True, odd: bool = False
    ) -> None:
        self._suspects = suspects and wanted.suspect
        self._conn, self._wanted, self._odd, self._now = conn, wanted, odd, to_time(wanted.now)
        self._held = set(held).intersection(wanted.handlers)
        self._readable = READABLE if wanted.unreadable else ""
        self._unreadable = json.dumps([f"{text}\n{zone or ''}" for text, zone in wanted.unreadable])
        self._running = Counter(dict(conn.execute(RUNNING))) if wanted.limits else Counter[str]()
        self._lanes: list[Lane] = []
        self._left: list[Lane] | None = None
        """The lanes once the chosen rows are taken, if that is known."""

    def chosen(self) -> list[Due]:
        wanted = self._wanted
        if wanted.job_id is not None:
            found = self._conn.execute(EXACTLY, [str(wanted.job_id), wanted.seq, self._now])
            return wanted.deal([_due(*row) for row in found], self._running)
        self._lanes = self._find_lanes(self._asked)
        due = self._best([lane for lane in self._lanes if type(lane.due) is not str or lane.due <= (self._now or "")])
        if not due:
            return []
        bad: list[Lane] = []
        if self._suspects:
            bad = self._best(self._find_lanes(f"AND {SUSPECT} AND due_at <= :now", suspect=True))
        if len(due) == 1 and not bad:
            return self._first(due[0])
        rows = self._rows(due, f"AND NOT {SUSPECT}")
        if bad:
            rows += [row._replace(suspect=True) for row in self._rows(bad, f"AND {SUSPECT}", most=1)]
        return wanted.deal(rows, self._running)

    def rest(self, chosen: list[Due]) -> tuple[datetime | None, bool]:
        """`next_due` and `short` of the answer, once these rows are taken."""
        if self._wanted.job_id is not None:
            return None, False
        lanes, rest = self._lanes, self._wanted.after(chosen)
        if self._left is not None:
            lanes = self._left
        elif chosen:
            calm = not self._wanted.suspect or any(row.suspect for row in chosen)
            lanes = self._find_lanes(f"AND NOT {SUSPECT}" if calm else "")
        self._running.update(row.handler_name for row in chosen)
        free = [lane for lane in lanes if not rest.waits_for_others(lane.handler, self._running)]
        return readable_time(min((lane.due for lane in free), default=None)), len(free) < len(lanes)

    def _find_lanes(self, more: str, *, suspect: bool = False) -> list[Lane]:
        """Lanes with rows for which `more` holds."""
        found: list[Lane] = []
        for held, index in ((False, READY), (True, MANUAL)):
            names = [name for name in self._wanted.handlers if (name in self._held) is held]
            if not names:
                continue
            ready = index
            if suspect:  # an index of their own
                ready, more = f"{READY} AND {SUSPECT}", f"{more} AND manual = 1" if held else more
            given = {"handlers": json.dumps(names), "now": self._now, "unreadable": self._unreadable}
            rows = self._conn.execute(_heads(ready, f"{more} {self._readable}"), given).fetchall()
            ready += " AND manual = 1" if suspect and held else ""
            found += [Lane(handler, priority, due, ready) for handler, priority, due in rows]
        return found

    def _best(self, lanes: Iterable[Lane]) -> list[Lane]:
        """The lanes that can be used: of handlers that are not busy, and by the rank of their first row."""
        wanted = self._wanted

        def place(lane: Lane) -> tuple[Any, ...]:
            return (lane.handler in wanted.busy, wanted.rank(_due(0, lane.handler, lane.priority, lane.due)))

        free = [lane for lane in lanes if wanted.most(lane.handler, self._running) > 0]
        return sorted(free, key=place)[:_MOST_LANES]

    def _first(self, lane: Lane) -> list[Due]:
        """For a single lane: as many rows as are allowed, in order. There is nothing to deal, so the ids are enough.

        The same statement tells which instant is then the earliest of the lane: of the first row too many, or of the
        first one later than now.
        """
        most = min(self._wanted.most(lane.handler, self._running), _MOST_ROWS)
        rows, given = self._statement([lane], f"AND NOT {SUSPECT}", most + 1)
        later = _LATER.format(ready=lane.ready, more=f"{self._asked} {self._readable}")
        sql = f"SELECT json_group_array(id), max(due_at), ({later}) FROM ({rows})"
        text, last, due = self._conn.execute(sql, given).fetchone()
        ids = json.loads(text)
        due = last if len(ids) > most else due
        if due is None or type(due) is str:
            self._left = [other for other in self._lanes if other is not lane]
            self._left += [] if due is None else [lane._replace(due=due)]
        return [Due(id_, lane.handler, 0, None) for id_ in ids[:most]]

    @property
    def _asked(self) -> str:
        """Part of the statements about all rows that the claim may take, now or later."""
        return "" if self._wanted.suspect else f"AND NOT {SUSPECT}"

    def _rows(self, lanes: list[Lane], more: str, most: int | None = None) -> list[Due]:
        sql, given = self._statement(lanes, more, most)
        if self._odd:
            found = self._conn.execute(sql, given).fetchall()
        else:  # in one step: a step per row would hand the interpreter lock back and forth for each
            sql = f"SELECT json_group_array(json_array(lane, id, due_at)) FROM ({sql})"
            found = json.loads(self._conn.execute(sql, given).fetchone()[0])
        return [_due(id_, lanes[number].handler, lanes[number].priority, due) for number, id_, due in found]

    def _statement(self, lanes: list[Lane], more: str, most: int | None = None) -> tuple[str, dict[str, Any]]:
        given: dict[str, Any] = {"now": self._now, "unreadable": self._unreadable}
        for number, lane in enumerate(lanes):
            given[f"handler{number}"], given[f"priority{number}"] = lane.handler, lane.priority
            given[f"most{number}"] = most or self._wanted.most(lane.handler, self._running)
        return _earliest(tuple(lane.ready for lane in lanes), f"{more} {self._readable}"), given


def _due(id_: int, handler: str, priority: Any, due: Any) -> Due:
    """A value that was put into the row by hand must not stop the claim: reading the row will report it."""
    return Due(id_, handler, priority if type(priority) is int else 0, readable_time(due))
