"""`show --follow`: a job's progress, line by line, until it has ended."""

from __future__ import annotations

from typing import Final

import anyio
import click

from aether_bg.cli.output import at, print_line
from aether_bg.cli.stores import find_job, read
from aether_bg.explain import plain
from aether_bg.model import JobInfo, Query
from aether_bg.protocols import Inspection

_POLL: Final = 0.5
"""Seconds between two reads."""


def follow(database: str, job: str, local: bool, as_json: bool) -> JobInfo:
    """Prints what is new until the job is terminal, or gone; returns its last row. Raises `JobNotFound`."""

    async def question(store: Inspection) -> JobInfo:
        row, told = await find_job(store.store_find, job), ""
        while True:
            line = _line(row, local)
            if line != told and not row.status.terminal:
                print_line({"status": row.status, "progress": row.progress}) if as_json else click.echo(line)
                told = line
            if row.status.terminal:
                return row
            await anyio.sleep(_POLL)
            found = await store.store_find(Query(ids=(row.id,)))
            if not found:
                return row
            row = found[0]

    return read(database, question)


def _line(row: JobInfo, local: bool) -> str:
    if row.progress is None:
        due = "" if row.due_at is None else f", due {at(row.due_at, local)}"
        return row.status.name + ("" if row.status.value else due)
    return f"{at(row.progress.at, local)}  {plain(str(row.progress))}"
