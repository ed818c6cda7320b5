"""`backup`: a verified copy of a database in use."""

from __future__ import annotations

from pathlib import Path

import click

from aether_bg.cli.database import database_argument, reading
from aether_bg.cli.output import Progress, json_option, print_document
from aether_bg.explain import plain
from aether_bg.plugins.sqlite.backup import backup as copy

_MIB = 1024**2


@click.command()
@database_argument
@click.argument("target", metavar="TARGET", type=click.Path(path_type=Path))
@json_option
def backup(database: Path, target: Path, as_json: bool) -> None:
    """Copy a database in use to a new file, verified.

    All that was committed when it began is in the copy. TARGET must not exist. To restore, stop all processes that use
    DB, remove DB and the files beside it (DB-wal, DB-shm), and copy TARGET to DB.

    \b
    aether-bg backup jobs.db /backups/jobs-2026-01-31.db
    """
    with reading(database) as db, Progress("copying") as progress:
        size = copy(
            db.conn,
            database,
            target,
            lambda done, total: progress.tell(f"{done / _MIB:,.0f} of {total / _MIB:,.0f} MiB"),
        )
    if as_json:
        print_document({"target": str(target), "size": size, "verified": True})
    else:
        click.echo(plain(f"{target}: {size / _MIB:,.1f} MiB, verified"))
