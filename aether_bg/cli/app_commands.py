"""`next`: what a schedule means, before a job has it. `plugins`: the parts of an app, hook by hook."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from aether_bg import schedule as language
from aether_bg._rules import validation as checks
from aether_bg._rules.recurrence import Plan, anchor_for
from aether_bg.cli.output import at, json_option, note, print_document, table
from aether_bg.cli.stores import app_option, load_app
from aether_bg.errors import InvalidOption, shown
from aether_bg.explain import plain
from aether_bg.schedule import Upcoming

if TYPE_CHECKING:
    from aether_bg import Aether


def instant(text: str | None, option: str) -> datetime | None:
    """An aware instant given on the command line."""
    if text is None:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None or when.utcoffset() is None:
        rule = "is not an instant in ISO 8601" if when is None else "has no zone, so it names no instant"
        raise InvalidOption(f"{option} {shown(text)}", rule, "For example: 2026-01-31T02:30:00Z.")
    return checks.instant(option, when)


@click.command("next")
@click.argument("text", metavar="TEXT")
@click.option("--timezone", "-z", metavar="ZONE", help="IANA zone of the schedule, for example Europe/Berlin.")
@click.option(
    "-n", "count", type=click.IntRange(1, 10_000), default=5, show_default=True, help="How many instants to show."
)
@click.option("--after", metavar="ISO", help="Instants after this one instead of after now; intervals count from it.")
@click.option("--start", metavar="ISO", help="As if the job had this start: days and weeks are counted from it.")
@click.option(
    "--jitter", type=click.FloatRange(0), default=0, metavar="SECONDS", help="Of the job; shows when it is due."
)
@click.option(
    "--job", "name", default="", metavar="NAME", help="The job's name, which decides its share of the jitter."
)
@app_option
@json_option
def next_(
    text: str, timezone: str | None, count: int, after: str | None, start: str | None, jitter: float, name: str,
    app: Aether | None, as_json: bool,
) -> None:  # fmt: skip
    """Show the coming instants of a schedule, and its words.

    Each in the schedule's zone and in UTC; one that daylight saving moves or doubles is flagged, with the reason. Exit
    code 1 when nothing is coming.

    \b
    aether-bg next "30 2 * * *" --timezone Europe/Berlin
    aether-bg next "@every 90m" -n 3 --json
    aether-bg next "@every 2 weeks at 09:00" --start 2026-01-05T09:00:00Z
    aether-bg next @hourly --jitter 600 --job import-prices
    """
    since = instant(after, "--after") or datetime.now(UTC)
    schedule = (app.calls if app else language).parse(text, timezone)
    begin = instant(start, "--start")
    plan = Plan(schedule, anchor_for(schedule, since, begin), begin, None, None, jitter=jitter)
    after_ = since if begin is None else max(since, begin - timedelta(microseconds=1))
    coming = schedule.upcoming(count, after=after_, anchor=plan.origin)
    due = [one.at + plan.lag(one.at.astimezone(UTC), name) if jitter else None for one in coming]
    if as_json:
        print_document({
            "schedule": schedule.text, "timezone": schedule.timezone, "description": schedule.describe(),
            "recurring": schedule.recurring, "after": since, "upcoming": [
                _json(one) | ({"due": when} if when else {}) for one, when in zip(coming, due, strict=True)
            ],
        })  # fmt: skip
    else:
        click.echo(plain(f"{schedule.text}: {schedule.describe()}"))
        if coming:
            table(
                ["LOCAL" if schedule.timezone else "TIME", "UTC", *(["DUE"] if jitter else []), "NOTE"],
                [
                    [_wall(one.at), at(one.at), *([at(when)] if when else []), _note(one)]
                    for one, when in zip(coming, due, strict=True)
                ],
            )
        elif not schedule.recurring:
            note("It is due once, as soon as the job is made: nothing comes after that.")
        else:
            note(f"Nothing comes after {at(since)}.")
    if not coming:
        raise click.exceptions.Exit(1)


def _note(one: Upcoming) -> str:
    return f"{one.note}: {one.reason}" if one.note else ""


def _json(one: Upcoming) -> dict[str, object]:
    return {"at": one.at, "local": one.at.isoformat(), "note": one.note, "reason": one.reason}


def _wall(when: datetime) -> str:
    name, offset = when.tzname() or "", when.strftime("%z")
    zone = f" {name}" if name[:1].isalpha() else ""  # many zones have no letters, only their offset
    return f"{when:%a %Y-%m-%d %H:%M:%S}{zone} {offset[:3]}:{offset[3:5]}"


@click.command()
@click.argument("app", metavar="MODULE:APP")
@json_option
def plugins(app: str, as_json: bool) -> None:
    """Show an app's hooks, who implements each, in order.

    MODULE is imported, from the current folder too; APP is the Aether in it. Of a policy hook the first plugin is
    asked first; of wraps it is outermost.

    \b
    aether-bg plugins myservice.jobs:app
    """
    from aether_bg._hooks.listed import full_name, hooks_of

    found = load_app(app)
    hooks = hooks_of(found.plugins)
    if as_json:
        print_document({
            "plugins": [full_name(plugin) for plugin in found.plugins.all], "handlers": sorted(found.handlers),
            "hooks": hooks,
        })  # fmt: skip
    else:
        table(
            ["HOOK", "LAYER", "SHAPE", "PLUGINS"],
            ([hook.hook, hook.layer, hook.shape, " > ".join(hook.plugins) or "-"] for hook in hooks),
        )
