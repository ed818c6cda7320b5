"""`explain`, `list`, `show`, `history`: read jobs and never write."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import attrs
import click

from aether_bg._rules import validation as checks
from aether_bg.cli import following
from aether_bg.cli.output import (
    at,
    fields,
    json_option,
    local_option,
    note,
    one_line,
    pretty,
    print_document,
    print_line,
    table,
    zone_of,
)
from aether_bg.cli.stores import app_option, database_argument, find_job, job_argument, read
from aether_bg.errors import InvalidOption, InvalidSchedule, JobNotFound, shown
from aether_bg.explain import Around, explain, plain, waiting
from aether_bg.model import JobInfo, JobRun, JobStatus, Process, Query
from aether_bg.model.plain import to_plain
from aether_bg.protocols import Inspection
from aether_bg.schedule import load

if TYPE_CHECKING:
    from aether_bg import Aether

_MOST_LINKED = 10
STATUSES = [status.name.lower() for status in JobStatus]


@click.command("explain")
@database_argument
@job_argument
@click.option("--limit", type=click.IntRange(1), default=10, show_default=True, help="Newest rows of its history.")
@local_option
@app_option
@json_option
def explain_(database: str, job: str, limit: int, local: bool, app: Aether | None, as_json: bool) -> None:
    """Did it run, and if not, why not? In sentences.

    Says when it is due, who claimed it, its attempts and their errors, what was skipped and why, and what it waits
    for: its time, a retry, `resume`, a process, a handler, a slot, the scheduler.

    \b
    aether-bg explain jobs.db send-email-order-123
    """

    async def question(store: Inspection) -> tuple[JobInfo, Sequence[JobRun], Around]:
        row = await find_job(store.store_find, job)
        parents = await store.store_find(Query(parents_of=row.id, limit=row.parents)) if row.waits_for else ()
        known = await store.processes()
        most = max(limits_of(known, row.handler_name), default=None)
        running = await store.store_find(Query(handler_name=row.handler_name, status=(JobStatus.RUNNING,)))
        facts = attrs.evolve(Around.of(known), parents=parents, running=len(running), limit=most)
        return row, await store.store_history(row.id, limit), facts

    row, runs, facts = read(database, question)
    now = datetime.now(UTC)
    zone = zone_of(local) or now.astimezone().tzinfo or UTC
    schedule = None
    if app is not None:
        row = app.calls.decoded(row)
    try:
        schedule = (app.calls.load if app is not None else load)(row.expression_value, row.timezone)
    except InvalidSchedule:
        facts = attrs.evolve(facts, readable=False)
    told = explain(row, runs, now=now, around=facts, schedule=schedule, zone=zone)
    if as_json:
        print_document(
            {"job": row, "waiting_for": waiting(row, now, facts), "sentences": told.split("\n"), "runs": runs}
        )
    else:
        click.echo(told)


@click.command("list")
@database_argument
@click.option("--status", "-s", multiple=True, type=click.Choice(STATUSES, case_sensitive=False),
              help="Only jobs in this state. Repeatable.")  # fmt: skip
@click.option("--handler", metavar="NAME", help="Only this kind of work.")
@click.option("--metadata", "-m", metavar="KEY=VALUE", multiple=True, help="Value as JSON, else as text. Repeatable.")
@click.option("--order", type=click.Choice(["created", "due"]), default="created", show_default=True,
              help="Oldest first, or next due first.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Jobs on a page.")
@click.option("--after", metavar="ID", help="The page after the job with this id, in the same order.")
@local_option
@json_option
def list_(
    database: str, status: tuple[str, ...], handler: str | None, metadata: tuple[str, ...], order: Any, limit: int,
    after: str | None, local: bool, as_json: bool,
) -> None:  # fmt: skip
    """List jobs, oldest first.

    With --json one job a line. A star marks one that is paused, or whose handler is.

    \b
    aether-bg list jobs.db --status failed --handler SendEmail
    aether-bg list jobs.db --metadata OrderId=123 --json
    """
    checks.text("handler", handler)
    query = Query(
        status=tuple(JobStatus[name.upper()] for name in status) or None, handler_name=handler,
        metadata=dict(map(_pair, metadata)) or None, order=order, limit=limit + 1, after=_id(after),
    )  # fmt: skip

    async def question(store: Inspection) -> Sequence[JobInfo]:
        if query.after is not None and not await store.store_find(Query(ids=(query.after,))):
            rule = "there is no such job, so no page after it"
            raise JobNotFound(f"--after {query.after}", rule, "It may have been purged.")
        return await store.store_find(query)

    found = read(database, question)
    page = found[:limit]
    if as_json:
        for job in page:
            print_line(job)
        return
    if page:
        table(
            ["ID", "STATUS", "HANDLER", "NAME", "DUE", "HANDLED", "TRY", "ERROR"],
            ([str(job.id), status_of(job), job.handler_name, job.job_name, at(job.due_at, local),
              at(job.handled_time, local), str(job.attempt), one_line(job.last_error, 60)] for job in page),
        )  # fmt: skip
    else:
        note("No job matches.")
    if len(found) > limit:
        note(f"{limit} shown; for the next page: --after {page[-1].id}")


@click.command()
@database_argument
@job_argument
@click.option("--follow", is_flag=True, help="First print its progress, until it has ended.")
@local_option
@json_option
def show(database: str, job: str, local: bool, as_json: bool, follow: bool) -> None:
    """Show one job, with its metadata and payload.

    With --follow --json each line of progress is a JSON object of its own.

    \b
    aether-bg show jobs.db send-email-order-123 --json
    aether-bg show jobs.db import-7 --follow
    """

    async def question(store: Inspection) -> tuple[JobInfo, Sequence[JobInfo], Sequence[JobInfo], Sequence[JobRun]]:
        row = await find_job(store.store_find, job)
        parents = await store.store_find(Query(parents_of=row.id))
        children = await store.store_find(Query(children_of=row.id))
        return row, parents, children, await store.store_history(row.id, 1)

    if follow:
        row = following.follow(database, job, local, as_json)
        if as_json:
            return print_line(row)
    row, parents, children, runs = read(database, question)
    kept = [run.result for run in runs if run.has_result]
    if as_json:
        links = {"parent_ids": [job.id for job in parents], "child_ids": [job.id for job in children]}
        more = {name: to_plain(ids) for name, ids in links.items() if ids}
        return print_document(to_plain(row) | more | ({"result": kept[0]} if kept else {}))
    linked = (("after", parents), ("before", children))
    fields([
        *_shown(row, local), *((name, _linked(jobs)) for name, jobs in linked if jobs),
        *(("result", pretty(result)) for result in kept),
    ])  # fmt: skip
    return None


@click.command()
@database_argument
@job_argument
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="Newest rows to show.")
@local_option
@json_option
def history(database: str, job: str, limit: int, local: bool, as_json: bool) -> None:
    """Show a job's attempts and missed occurrences.

    Newest first; with --json one a line.

    \b
    aether-bg history jobs.db Backup --limit 50
    """

    async def question(store: Inspection) -> Sequence[JobRun]:
        return await store.store_history((await find_job(store.store_find, job)).id, limit)

    runs = read(database, question)
    if as_json:
        for run in runs:
            print_line(run)
    elif runs:
        table(
            ["OCCURRENCE", "TRY", "OUTCOME", "STARTED", "FINISHED", "TOOK", "COUNT", "ERROR"],
            ([at(run.occurrence, local), str(run.attempt) if run.started_at else "-", run.outcome or "running",
              at(run.started_at, local), at(run.finished_at, local), _took(run), str(run.count),
              one_line(run.error, 80)] for run in runs),
        )  # fmt: skip
    else:
        note("It has no history yet.")


def limits_of(processes: Sequence[Process], handler: str) -> list[int]:
    """The limits that live processes have for a handler; they may disagree (docs/protocol.md, L1)."""
    live = [process for process in processes if process.state == "alive"]
    return sorted({process.limits[handler] for process in live if handler in process.limits})


def status_of(job: JobInfo) -> str:
    return job.status.name + ("*" if (job.paused or job.handler_paused) and not job.status.terminal else "")


def _pair(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise InvalidOption(f"--metadata {shown(text)}", "is not KEY=VALUE", "For example: --metadata OrderId=123.")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _id(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError:
        raise InvalidOption(
            f"--after {shown(text)}", "is not a job's id", "Take the last id of the page before."
        ) from None


def _shown(job: JobInfo, local: bool) -> Iterator[tuple[str, str]]:
    """The fields that are set, the most important first."""
    try:
        words = load(job.expression_value, job.timezone).describe()
    except InvalidSchedule:
        words = "in the words of a plugin"
    yield "job_name", plain(job.job_name)
    yield "status", job.status.name + (", paused" if job.paused else ", handler paused" if job.handler_paused else "")
    yield "schedule", plain(f"{job.expression_value} ({words})")
    told = {"job_name", "status", "paused", "expression_value", "payload", "extra_properties", "checkpoint"}
    for field in attrs.fields(JobInfo):
        value = getattr(job, field.name)
        if field.name in told or value is None or value is False or (value == 0 and field.name != "seq"):
            continue
        if isinstance(value, datetime):
            yield field.name, at(value, local)
        else:
            yield field.name, "\n".join(plain(line) for line in str(value).rstrip().splitlines())
    if job.extra_properties:
        yield "metadata", pretty(job.extra_properties)
    if job.checkpoint is not None:
        yield "checkpoint", pretty(job.checkpoint)
    yield "payload", pretty(job.payload)


def _linked(jobs: Sequence[JobInfo]) -> str:
    """The jobs that one runs after, or that run after it."""
    names = [f"{plain(job.job_name)} ({job.status.name})" for job in jobs[:_MOST_LINKED]]
    return "\n".join([*names, *([f"and {len(jobs) - _MOST_LINKED} more"] if len(jobs) > _MOST_LINKED else [])])


def _took(run: JobRun) -> str:
    if run.started_at is None or run.finished_at is None:
        return "-"
    return f"{(run.finished_at - run.started_at).total_seconds():.3f} s"
