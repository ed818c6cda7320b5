"""`retry`, `delete`, `pause`, `resume`, `trigger`: an app's verbs on jobs. `purge`."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import click

from aether_bg.cli.output import at, json_option, note, print_document, print_line, progress_bar
from aether_bg.cli.stores import app_option, database_argument, find_job, operate, policies, read
from aether_bg.errors import AetherError, InvalidOption, shown
from aether_bg.explain import plain
from aether_bg.model import JobInfo, JobStatus, Purge
from aether_bg.protocols import Inspection

if TYPE_CHECKING:
    from aether_bg import Aether
    from aether_bg._app.operator import Operator


@attrs.frozen(kw_only=True)
class Done:
    """What happened to one JOB. `changed` False: nothing had to change."""

    verb: str
    asked: str
    ok: bool
    changed: bool = False
    job: JobInfo | None = None
    error: str | None = None


def _verb(name: str, help_: str, *, with_app: bool = False) -> click.Command:
    """A command that applies the app's verb of that name to each JOB."""

    def command(database: str, jobs: tuple[str, ...], as_json: bool, app: Aether | None = None) -> None:
        _each(name, database, jobs, as_json, app)

    command = click.argument("jobs", metavar="JOB...", nargs=-1, required=True)(json_option(command))
    return click.command(name, help=help_)(database_argument(app_option(command) if with_app else command))


def _verb_of_two(name: str, help_: str, *, with_app: bool = False) -> click.Command:
    """The same for a verb that takes handlers as well."""

    def command(
        database: str, jobs: tuple[str, ...], handler: tuple[str, ...], as_json: bool, app: Aether | None = None
    ) -> None:
        if bool(jobs) == bool(handler):
            raise click.UsageError(f"Name jobs, or handlers with --handler: {name} takes one of the two")
        if jobs:
            _each(name, database, jobs, as_json, app)
        else:
            _handlers(name, database, handler, as_json)

    each = "Every job of this handler, those to come included. Repeatable."
    command = click.option("--handler", metavar="NAME", multiple=True, help=each)(json_option(command))
    command = click.argument("jobs", metavar="[JOB...]", nargs=-1)(command)
    return click.command(name, help=help_)(database_argument(app_option(command) if with_app else command))


# `retry`, `resume` and `trigger` compute a due instant, which takes the plugin that knows the schedule.
VERBS: Final = (
    _verb("retry", """Bring FAILED or CANCELLED jobs back.

    One-shots run at once, recurring ones at their next occurrence.

    \b
    aether-bg retry jobs.db send-email-order-123
    """, with_app=True),
    _verb("delete", """Cancel jobs, running ones too.

    Their names are free then; their rows stay until they are purged.

    \b
    aether-bg delete jobs.db send-email-order-123
    """),
    _verb_of_two("pause", """Hold jobs back, their retries included.

    A running attempt ends normally. With --handler all jobs of a kind wait, in every process, until `resume --handler`.

    \b
    aether-bg pause jobs.db Backup
    aether-bg pause jobs.db --handler Render
    """),
    _verb_of_two("resume", """Let paused jobs go on.

    Overdue one-shots and retries run at once, recurring ones from now. With --handler, what became due meanwhile runs
    by its misfire policy, as after a time without a process.

    \b
    aether-bg resume jobs.db Backup
    aether-bg resume jobs.db --handler Render
    """, with_app=True),
    _verb("trigger", """Run jobs now.

    Waiting one-shots and retries at once, recurring ones one extra time.

    \b
    aether-bg trigger jobs.db Backup
    """, with_app=True),
)  # fmt: skip


def _each(verb: str, database: str, jobs: tuple[str, ...], as_json: bool, app: Aether | None) -> None:
    """One after another; a job that refuses does not stop the others. Exit code 1 if any refused."""

    async def all_of_them(operator: Operator) -> list[Done]:
        return [await _one(verb, text, operator) for text in jobs]

    results = operate(database, all_of_them, policies(app))
    for done in results:
        if as_json:
            print_line(done)
        elif done.ok:
            click.echo(_told(done))
        else:
            note(f"aether-bg: {' '.join((done.error or '').split())}")
    if not all(done.ok for done in results):
        raise click.exceptions.Exit(1)


def _handlers(verb: str, database: str, names: tuple[str, ...], as_json: bool) -> None:
    async def all_of_them(operator: Operator) -> list[dict[str, Any]]:
        done = []
        for name in names:
            before = (await operator.calls.stats()).paused_handlers
            await getattr(operator.verbs, verb)(None, name)
            after = await operator.calls.stats()
            waiting = after.by_handler.get(name, {}).get("scheduled", 0)
            changed = (name in before) is not (name in after.paused_handlers)
            paused = name in after.paused_handlers
            done.append({"verb": verb, "handler": name, "changed": changed, "paused": paused, "waiting": waiting})
        return done

    for done in operate(database, all_of_them):
        if as_json:
            print_line(done)
        else:
            state = f"{'paused' if done['paused'] else 'not paused'}, {done['waiting']:,} jobs wait"
            click.echo(plain(f"{verb} {done['handler']}: {'' if done['changed'] else 'it was so already; '}{state}"))


async def _one(verb: str, text: str, operator: Operator) -> Done:
    try:
        before = await find_job(operator.calls.find, text)
        if await getattr(operator.verbs, verb)(before.id) is False:
            rule = f"it is {before.status.name}: nothing is left to delete. `aether-bg purge` removes ended jobs."
            return Done(verb=verb, asked=text, ok=False, job=before, error=f"delete of job {before.job_name!r}: {rule}")
        no_change = {
            "pause": before.paused, "resume": not before.paused, "trigger": before.manual or before.trigger_pending,
        }.get(verb, False)  # fmt: skip
        job = await find_job(operator.calls.find, str(before.id))
        return Done(verb=verb, asked=text, ok=True, changed=not no_change, job=job)
    except AetherError as error:
        return Done(verb=verb, asked=text, ok=False, error=str(error))


def _told(done: Done) -> str:
    job = done.job
    assert job is not None  # ok has one
    state = job.status.name + (" and paused" if job.paused and not job.status.terminal else "")
    due = f", due {at(job.due_at)}" if job.due_at and not job.held else ""
    return plain(f"{done.verb} {job.job_name}: {'' if done.changed else 'it was so already; '}{state}{due}")


# -- purge ---------------------------------------------------------------------------------------

TERMINAL = [status for status in JobStatus if status.terminal]
_UNITS = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_LENGTH = re.compile(r"(?:[0-9]{1,9}[wdhms])+")
_BREATH = 0.01
"""Seconds between two batches, for other writers."""


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
              multiple=True, help="Only these; all ended jobs if not given. Repeatable.")  # fmt: skip
@click.option("--older-than", metavar="LENGTH", help="Only those that ended longer ago, for example 7d or 1d12h.")
@click.option("--keep", type=click.IntRange(0), metavar="N", help="Except the newest N of each status.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
@click.option("--dry-run", is_flag=True, help="Count the jobs, delete nothing.")
@json_option
def purge(
    database: str, status: tuple[str, ...], older_than: str | None, keep: int | None, yes: bool, dry_run: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Delete ended jobs with their history.

    That frees their names. Live jobs are never touched.

    Asks first; without a terminal it needs --yes or --dry-run.

    \b
    aether-bg purge jobs.db --status completed --older-than 7d --dry-run
    aether-bg purge jobs.db --keep 1000 --yes
    """
    before = None if older_than is None else datetime.now(UTC) - length(older_than)
    wanted = [one for one in TERMINAL if not status or one.name.lower() in {name.lower() for name in status}]
    bites = [Purge(status=one, before=before, keep=keep) for one in wanted]

    async def question(store: Inspection) -> int:
        return sum([await store.purgeable(bite) for bite in bites])

    expected = read(database, question)
    if not dry_run and not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise click.UsageError("Without a terminal to ask on, purge needs --yes (or --dry-run)")
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
    with progress_bar("purging", expected) as bar:
        for bite in bites:
            while (count := await operator.calls.purge(bite)) > 0:
                gone += count
                bar.update(count)
                await anyio.sleep(_BREATH)
    return gone
