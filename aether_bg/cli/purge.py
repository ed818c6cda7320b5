"""`purge`: ended jobs go, in bites, beside live work."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import click

from aether_bg.cli.database import Reading, database_argument, reading
from aether_bg.cli.output import Progress, json_option, print_document
from aether_bg.cli.session import Operator, operate
from aether_bg.errors import InvalidOption, shown
from aether_bg.model import JobStatus, Purge
from aether_bg.plugins.sqlite.columns import to_time

TERMINAL = [status for status in JobStatus if status.terminal]
_UNITS = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_LENGTH = re.compile(r"(?:[0-9]{1,9}[wdhms])+")
_BREATH = 0.01
"""Seconds between bites, so that live work comes in between."""


def length(text: str) -> timedelta:
    """`7d`, `1d12h`: weeks, days, hours, minutes, seconds."""
    try:
        if not _LENGTH.fullmatch(text):
            raise ValueError
        parts = re.findall(r"([0-9]+)([wdhms])", text)
        total = sum((timedelta(**{_UNITS[unit]: int(number)}) for number, unit in parts), timedelta())
        datetime.now(UTC) - total
    except (ValueError, OverflowError):
        raise InvalidOption(
            f"--older-than {shown(text)}", "is not a length of time in w, d, h, m or s, within the calendar",
            "For example: 7d, or 1d12h.",
        ) from None  # fmt: skip
    return total


@click.command()
@database_argument
@click.option("--status", "-s", type=click.Choice([status.name.lower() for status in TERMINAL], case_sensitive=False),
              multiple=True, help="Only these; all that have ended if not given. Repeatable.")  # fmt: skip
@click.option("--older-than", metavar="LENGTH", help="Only those that ended longer ago, for example 7d or 1d12h.")
@click.option("--keep", type=click.IntRange(0), metavar="N", help="Except the newest N of each status.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@json_option
def purge(
    database: Path, status: tuple[str, ...], older_than: str | None, keep: int | None, yes: bool, dry_run: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Delete ended jobs with their history.

    That frees their names. Live jobs are never touched.

    Asks first when it can; without a terminal it wants --yes or --dry-run.

    \b
    aether-bg purge jobs.db --status completed --older-than 7d --dry-run
    aether-bg purge jobs.db --keep 1000 --yes
    """
    before = None if older_than is None else datetime.now(UTC) - length(older_than)
    wanted = [one for one in TERMINAL if not status or one.name.lower() in {name.lower() for name in status}]
    bites = [Purge(status=one, before=before, keep=keep) for one in wanted]
    with reading(database) as db:
        expected = sum(_count(db, bite) for bite in bites)
    if not dry_run and not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise click.UsageError("Nobody can be asked here, so it wants --yes (or --dry-run)")
        click.confirm(f"Delete {expected:,} ended jobs and their history?", abort=True, err=True)
    gone = 0 if dry_run or not expected else operate(database, lambda operator: _purge(operator, bites, expected))
    if as_json:
        print_document({
            "matching": expected, "purged": gone, "dry_run": dry_run, "status": [one.name.lower() for one in wanted],
            "before": before, "keep": keep,
        })  # fmt: skip
    else:
        click.echo(f"{expected:,} jobs would be purged." if dry_run else f"{gone:,} jobs purged.")


async def _purge(operator: Operator, bites: list[Purge], expected: int) -> int:
    gone = 0
    with Progress("purging") as progress:
        for bite in bites:
            while (count := await operator.purge(bite)) > 0:
                gone += count
                progress.tell(f"{gone:,} of {expected:,} jobs")
                await anyio.sleep(_BREATH)
    return gone


def _count(db: Reading, purge: Purge) -> int:
    """How many a purge would take; counted as the store takes them, oldest first."""
    assert purge.status is not None
    sql, params = "SELECT count(*) FROM aether_jobs WHERE status = ?", [int(purge.status)]
    total: int = db.one(sql, *params)
    old = total if purge.before is None else db.one(f"{sql} AND handled_time < ?", *params, to_time(purge.before))
    return min(old, total if purge.keep is None else max(total - purge.keep, 0))
