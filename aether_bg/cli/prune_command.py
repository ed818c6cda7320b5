"""`prune`: ends the jobs that the code no longer declares."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from aether_bg.cli.output import json_option, print_document
from aether_bg.cli.stores import database_argument, load_app, operate, policies
from aether_bg.explain import plain
from aether_bg.model import JobInfo

if TYPE_CHECKING:
    from aether_bg import Aether
    from aether_bg._app.operator import Operator


@click.command()
@database_argument
@click.option("--app", metavar="MODULE:APP", required=True, callback=lambda _, __, text: load_app(text),
              help="The app whose declarations are compared.")  # fmt: skip
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
@click.option("--dry-run", is_flag=True, help="Name the jobs, end nothing.")
@json_option
def prune(database: str, app: Aether, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Cancel jobs whose declaration is gone from the code.

    Those are jobs that an app declared, and that neither this app nor a process that runs now declares any more. Jobs
    that were enqueued by hand are never touched.

    Names them and asks first; without a terminal it needs --yes or --dry-run.

    \b
    aether-bg prune jobs.db --app myservice.jobs:app --dry-run
    """
    if not dry_run and not yes and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError("Without a terminal to ask on, prune needs --yes (or --dry-run)")
    gone = operate(database, lambda operator: operator.gone(app), policies(app))
    if gone and not dry_run and not yes:
        for job in gone:
            click.echo(plain(job.job_name), err=True)
        click.confirm(f"Cancel these {len(gone):,} jobs?", abort=True, err=True)
    ended = operate(database, lambda operator: _end(operator, gone), policies(app)) if gone and not dry_run else []
    if as_json:
        names = [job.job_name for job in gone]
        print_document({"gone": names, "ended": [job.job_name for job in ended], "dry_run": dry_run})
        return
    for job in gone if dry_run else ended:
        click.echo(plain(f"prune {job.job_name}: {'would be ' if dry_run else ''}CANCELLED"))
    click.echo(f"{len(gone):,} jobs would be cancelled." if dry_run else f"{len(ended):,} jobs cancelled.")


async def _end(operator: Operator, gone: Sequence[JobInfo]) -> list[JobInfo]:
    return [job for job in gone if await operator.end_gone(job)]
