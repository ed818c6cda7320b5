"""`retry`, `delete`, `pause`, `resume`, `trigger`: an app's verbs on one job or several."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import attrs
import click

from aether_bg import Aether
from aether_bg.cli.apps import app_option, policies
from aether_bg.cli.database import database_argument, reading
from aether_bg.cli.output import at, json_option, note, print_line
from aether_bg.cli.session import Operator, operate
from aether_bg.errors import AetherError
from aether_bg.explain import plain
from aether_bg.model import JobInfo

F = TypeVar("F", bound=Callable[..., Any])
Verb = Callable[[Operator, JobInfo], Awaitable[object]]


@attrs.frozen(kw_only=True)
class Done:
    """What became of one JOB. `changed` False: it was so already."""

    verb: str
    asked: str
    ok: bool
    changed: bool = False
    job: JobInfo | None = None
    error: str | None = None


def jobs_arguments(command: F) -> F:
    command = json_option(command)
    command = click.argument("jobs", metavar="JOB...", nargs=-1, required=True)(command)
    return database_argument(command)


@click.command()
@jobs_arguments
@app_option
def retry(database: Path, jobs: tuple[str, ...], app: Aether | None, as_json: bool) -> None:
    """Bring FAILED or CANCELLED jobs back.

    One-shots run at once, recurring ones at their next occurrence.

    \b
    aether-bg retry jobs.db send-email-order-123
    """
    _each("retry", database, jobs, as_json, lambda operator, job: operator.verbs.retry(job.id), app)


@click.command()
@jobs_arguments
def delete(database: Path, jobs: tuple[str, ...], as_json: bool) -> None:
    """Cancel jobs, running ones too.

    Their names are free then; their rows stay until they are purged.

    \b
    aether-bg delete jobs.db send-email-order-123
    """
    _each("delete", database, jobs, as_json, lambda operator, job: operator.verbs.delete(job.id))


@click.command()
@jobs_arguments
def pause(database: Path, jobs: tuple[str, ...], as_json: bool) -> None:
    """Hold jobs back, their retries included.

    A running attempt ends normally.

    \b
    aether-bg pause jobs.db Backup
    """
    _each("pause", database, jobs, as_json, lambda operator, job: operator.verbs.pause(job.id))


@click.command()
@jobs_arguments
@app_option
def resume(database: Path, jobs: tuple[str, ...], app: Aether | None, as_json: bool) -> None:
    """Let paused jobs go on.

    Overdue one-shots and retries run at once, recurring ones from now.

    \b
    aether-bg resume jobs.db Backup
    """
    _each("resume", database, jobs, as_json, lambda operator, job: operator.verbs.resume(job.id), app)


@click.command()
@jobs_arguments
@app_option
def trigger(database: Path, jobs: tuple[str, ...], app: Aether | None, as_json: bool) -> None:
    """Run jobs now.

    Waiting one-shots and retries at once, recurring ones one extra time.

    \b
    aether-bg trigger jobs.db Backup
    """
    _each("trigger", database, jobs, as_json, lambda operator, job: operator.verbs.trigger(job.id), app)


def _each(
    name: str, database: Path, jobs: tuple[str, ...], as_json: bool, verb: Verb, app: Aether | None = None
) -> None:
    """One after another; a job that refuses does not keep the others from it. Exit code 1 if any did."""
    with reading(database) as db:  # says what is wrong with the file, before anything opens it for writing

        async def all_of_them(operator: Operator) -> list[Done]:
            return [await _one(name, text, verb, operator, db.job) for text in jobs]

        results = operate(database, all_of_them, policies(app) if app else ())
    for done in results:
        if as_json:
            print_line(done)
        elif done.ok:
            click.echo(_told(done))
        else:
            note(f"aether-bg: {' '.join((done.error or '').split())}")
    if not all(done.ok for done in results):
        raise click.exceptions.Exit(1)


async def _one(name: str, text: str, verb: Verb, operator: Operator, find: Callable[[str], JobInfo]) -> Done:
    try:
        before = find(text)
        answer = await verb(operator, before)
        if answer is False:
            rule = f"it is {before.status.name}: nothing is left to delete. `aether-bg purge` removes ended jobs."
            return Done(verb=name, asked=text, ok=False, job=before, error=f"delete of job {before.job_name!r}: {rule}")
        so_already = {
            "pause": before.paused, "resume": not before.paused, "trigger": before.manual or before.trigger_pending,
        }  # fmt: skip
        return Done(verb=name, asked=text, ok=True, changed=not so_already.get(name, False), job=find(str(before.id)))
    except AetherError as error:
        return Done(verb=name, asked=text, ok=False, error=str(error))


def _told(done: Done) -> str:
    job = done.job
    assert job is not None  # ok has one
    state = job.status.name + (" and paused" if job.paused and not job.status.terminal else "")
    due = f", due {at(job.due_at)}" if job.due_at and not job.held else ""
    return plain(f"{done.verb} {job.job_name}: {'' if done.changed else 'it was so already; '}{state}{due}")
