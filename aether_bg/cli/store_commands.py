"""`backup`, `copy`, `migrate`: commands on a store as a whole."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

import attrs
import click

from aether_bg.cli import copying
from aether_bg.cli.output import json_option, note, print_document, progress_bar
from aether_bg.cli.stores import ask, database_argument, read, tell
from aether_bg.errors import InvalidOption, UsageError
from aether_bg.explain import plain
from aether_bg.model import Stats
from aether_bg.protocols import Inspection


@click.command()
@database_argument
@click.argument("target", metavar="TARGET", type=click.Path(path_type=Path))
@json_option
def backup(database: str, target: Path, as_json: bool) -> None:
    """Copy a database file in use to a new file, verified.

    All that was committed when it began is in the copy. TARGET must not exist. To restore, stop all processes that use
    DB, remove DB and the files beside it (DB-wal, DB-shm), and copy TARGET to DB.

    A database on a server has tools of its own, such as pg_dump.

    \b
    aether-bg backup jobs.db /backups/jobs-2026-01-31.db
    """
    if re.match(r"[a-z]+:/", str(target)):  # a Path of a URL has one slash less
        raise InvalidOption("TARGET", "must be the path of a new file", "To another store: aether-bg copy.")
    with progress_bar("copying") as bar:

        def progress(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        read(database, lambda store: store.backup(target, progress))
    size = target.stat().st_size
    if as_json:
        print_document({"target": str(target), "size": size, "verified": True})
    else:
        click.echo(plain(f"{target}: {size / 1024**2:,.1f} MiB, verified"))


@click.command("copy")
@database_argument
@click.argument("target", metavar="TARGET")
@click.option("--ended", is_flag=True, help="Only jobs that have ended, while processes still run on DB.")
@json_option
def copy_(database: str, target: str, ended: bool, as_json: bool) -> None:
    """Copy all jobs to another store.

    With their history, names and pauses; TARGET is a file or a URL.

    For a service that outgrows its file. Stop the processes that run the jobs of DB, copy, and start them on TARGET.
    For a short stop, copy with --ended before it, and without it after it. A copy that was interrupted goes on where it
    ended when it is run again. At the end every job is looked for in TARGET.

    DB is only read, and still has its jobs afterwards: start nothing on it any more. Jobs that a dead process was
    running are taken back by the first process on TARGET. Exit code 1 when something is not in TARGET.

    \b
    aether-bg copy jobs.db postgresql://jobs@db.example.org/jobs
    """
    from aether_bg import Aether
    from aether_bg._app.operator import operating

    what, app = f"copy from {tell(database)}", Aether(target, scheduler="timer")

    async def inside(source: Inspection) -> copying.Copied:
        if not ended:
            await copying.refuse_running(source, what)
        counts: Stats = await source.store_stats()
        async with operating(app) as operator:
            if (await operator.calls.stats()).store_id == counts.store_id:
                raise UsageError(what, "the target is the same store", "Name another file or database.")
            with progress_bar("copying", counts.total) as bar:
                tally = await copying.copy(source, operator, ended_only=ended, progress=bar.update)
            with progress_bar("verifying", counts.total) as bar:
                await copying.verify(source, operator, tally, ended_only=ended, progress=bar.update)
        if not ended:
            await copying.refuse_running(source, what)
        return tally

    with contextlib.redirect_stdout(sys.stderr):
        tally = read(database, inside)
    if as_json:
        print_document({**attrs.asdict(tally), "verified": tally.verified})
    else:
        _say(tally, ended)
    if not tally.verified:
        raise click.exceptions.Exit(1)


def _say(tally: copying.Copied, ended: bool) -> None:
    said = f"{tally.copied:,} jobs copied with {tally.runs:,} rows of history"
    for count, words in (
        (tally.renewed, "brought up to date"), (tally.already, "there already"),
        (tally.moved_on, "newer in the target"), (tally.left, "live, not asked for"),
    ):  # fmt: skip
        said += f"; {count:,} {words}" if count else ""
    click.echo(said)
    for problem in tally.conflicts[:5]:
        note(f"aether-bg: {problem}")
    for count, words in (
        (len(tally.conflicts), "refused by the target"), (len(tally.unreadable), "not readable in the source"),
        (tally.missing, "missing in the target"),
    ):  # fmt: skip
        if count:
            note(f"aether-bg: {count:,} jobs {words}.")
    if tally.verified:
        click.echo("verified: every job that was asked for is in the target")
        if not ended:
            note("The source still has its jobs. Start nothing on it any more.")


@click.command()
@database_argument
@click.option("--sql", is_flag=True, help="Print the statements, change nothing.")
@json_option
def migrate(database: str, sql: bool, as_json: bool) -> None:
    """Create or update the tables of a store on a server.

    For a role that may, where the apps' own may not: they start with PostgresStore(…, migrate="check"). A file is
    brought up to date by the app that opens it.

    \b
    aether-bg migrate postgresql://owner@db.example.org/jobs
    aether-bg migrate postgresql:// --sql > schema.sql
    """
    done = ask(database, "migrate", lambda apply: apply(sql=sql))
    if sql:
        click.echo(done)
    elif as_json:
        print_document({"applied": done})
    else:
        click.echo(plain(f"applied: {', '.join(done)}" if done else "nothing to do"))
