"""`stats`, `check`: the state of a store, and who runs its jobs. They read, and never write."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import click

from aether_bg.cli.output import at, fields, json_option, local_option, print_document, progress_bar, table
from aether_bg.cli.read_commands import STATUSES, limits_of
from aether_bg.cli.stores import ask, database_argument, read
from aether_bg.model import Finding, Process, Stats
from aether_bg.model.plain import to_plain
from aether_bg.protocols import Inspection


@click.command()
@database_argument
@local_option
@json_option
def stats(database: str, local: bool, as_json: bool) -> None:
    """Count jobs, and list the processes that run them.

    \b
    aether-bg stats jobs.db --json
    """

    async def question(store: Inspection) -> tuple[Stats, list[Process]]:
        return await store.store_stats(), await store.processes()

    counts, running = read(database, question)
    if as_json:
        print_document({**to_plain(counts), "total": counts.total, "processes": running})
        return
    fields(_counts(counts, local))
    if counts.by_handler or counts.paused_handlers:
        click.echo()
        table(
            ["HANDLER", *(name.upper() for name in STATUSES), "LIMIT", "PAUSED"],
            ([handler, *(str(counts.by_handler.get(handler, {}).get(name, 0)) for name in STATUSES),
              " or ".join(map(str, limits_of(running, handler))) or "-",
              "paused" if handler in counts.paused_handlers else "-"]
             for handler in sorted({*counts.by_handler, *counts.paused_handlers})),
        )  # fmt: skip
    if running:
        click.echo()
        table(
            ["PROCESS", "STATE", "PID", "HOST", "STARTED", "LAST BEAT", "HANDLERS"],
            (_process(process, local) for process in running),
        )


@click.command()
@database_argument
@click.option("--quick", is_flag=True, help="SQLite's quick_check instead of its integrity_check.")
@json_option
def check(database: str, quick: bool, as_json: bool) -> None:
    """Check a database, its rows, and whether its jobs run.

    Looks at the file, its schema, rows that contradict each other, jobs of processes that are gone, due jobs for which
    no process has a handler, and declarations that a live process could not apply.

    Exit code 1 when something is wrong. What may be in order (a long queue, a large WAL) is a note and does not count.

    \b
    aether-bg check jobs.db
    """
    with progress_bar("checking") as bar:
        report = ask(database, "check", lambda check: check(quick=quick, progress=partial(bar.update, 1)))
    problems = [finding for finding in report.findings if finding.level == "problem"]
    if as_json:
        print_document({"ok": report.ok, "schema": report.schema, "findings": report.findings})
    else:
        if report.findings:
            table(
                ["LEVEL", "CODE", "COUNT", "MESSAGE"],
                ([finding.level, finding.code, str(finding.count), _message(finding)] for finding in report.findings),
            )
        click.echo(f"problems: {len(problems)}" if problems else f"ok (schema {report.schema})")
    if problems:
        raise click.exceptions.Exit(1)


def _message(finding: Finding) -> str:
    return finding.message + (f" ({', '.join(finding.examples)})" if finding.examples else "")


def _counts(counts: Stats, local: bool) -> Iterator[tuple[str, str]]:
    yield "store", str(counts.store_id)
    for name in STATUSES:
        yield name, f"{getattr(counts, name):,}"
    yield "paused", f"{counts.paused:,}"
    yield "due now", f"{counts.due:,}"
    yield "earliest due", at(counts.oldest_due, local)
    yield "history rows", f"{counts.runs:,}"
    yield "size", f"{counts.size / 1024**2:,.1f} MiB"


def _process(process: Process, local: bool) -> list[str]:
    return [
        str(process.id), process.state, str(process.pid), process.host, at(process.started_at, local),
        at(process.beat_at, local), ", ".join(sorted(process.handlers)) or "-",
    ]  # fmt: skip
