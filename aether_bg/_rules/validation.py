"""Checks settings and arguments where they are given. Each error has the value, the rule and the remedy."""

from __future__ import annotations

import inspect
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import PurePath
from typing import Any, Final, NoReturn

from aether_bg.errors import InvalidName, InvalidOption, shown
from aether_bg.model import JobStatus
from aether_bg.model.attempts import LONGEST, in_seconds
from aether_bg.schedule._model import Refused, utc

LONGEST_NAME: Final = 200
_FORBIDDEN: Final = frozenset("/\\#?")
LARGEST: Final = 2**63 - 1
"""The largest whole number that a database column holds."""
_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
"""Characters without width whose category is not "format": fillers, joiners, selectors, tags."""


def refuse(option: str, value: object, rule: str, remedy: str = "") -> NoReturn:
    """`rule` begins with "must". Raises `InvalidOption`."""
    raise InvalidOption(shown(value), rule, remedy, name=option)


_INSTEAD: Final = {
    "schedule=timedelta(minutes=5)": "delay countdown run_in run_after wait_for delay_seconds in_seconds defer_by",
    "schedule=an aware datetime": "run_at at eta when due due_at run_date run_time scheduled_at schedule_at",
    'schedule="30 2 * * MON"': "cron crontab cron_expression expression trigger",
    'schedule="@every 10m"': "every interval period seconds minutes hours days weeks",
    'timezone="Europe/Berlin"': "timezone tz zone time_zone tzinfo",
    'job_name="send-email-order-123"': "name id job_id key task_id unique_key idempotency_key",
    "payload=SendEmail(…)": "payload args kwargs data params arguments body",
    "metadata={…}": "metadata meta tags extra properties",
    "until=an aware datetime": "until end end_date expires expires_at not_after",
    "start=an aware datetime": "start start_date start_at not_before",
    'if_exists="replace"': "replace replace_existing on_conflict exists_ok",
    'misfire="skip"': "misfire coalesce",
    "misfire_grace=60": "misfire_grace misfire_grace_time",
    "repeats=3": "repeats times count max_runs repeat",
    "retries=3": "max_retries retry attempts max_attempts max_tries retries",
    "timeout=30": "timeout time_limit",
    "concurrency=2": "concurrency limit max_concurrency concurrency_limit max_running max_instances",
    "priority=10": "prio importance weight",
}
"""Each option's name here, with its names in other libraries."""
_OF_HANDLERS: Final = ("retries", "timeout", "concurrency")
_OF_JOBS: Final = ("payload", "metadata", "until", "start", "misfire", "misfire_grace", "repeats")


def _instead(name: str, known: tuple[str, ...]) -> str | None:
    for written, names in _INSTEAD.items():
        option = written.split("=")[0]
        if name not in names.split():
            continue
        if option in known:
            return f"Write {written}."
        if f"new_{option}" in known:
            return f"Write new_{written}."
        if option in _OF_HANDLERS and "job_name" in known:
            return f"It belongs to the handler: @app.handler(…, {written})."
        if "keep_result" in known and option == "timezone":
            return 'Write the zone into the schedule: "CRON_TZ=Europe/Berlin 30 2 * * MON".'
        if "keep_result" in known and option in _OF_JOBS:
            return f'It belongs to the job: app.declare("SendEmail", …, {written}), or app.enqueue.'
    return None


def unknown_options(given: Mapping[str, object], known: tuple[str, ...] | Callable[..., Any]) -> None:
    """`known`: names, or the function whose options they are."""
    for name in given:
        if callable(known):
            parameters = inspect.signature(known).parameters.values()
            known = tuple(one.name for one in parameters if one.kind is one.KEYWORD_ONLY)
        if (instead := _instead(name, known)) is not None:
            raise InvalidOption(f"option {shown(name)}", "there is no such option", instead)
        near = nearest(name, known)
        raise InvalidOption(
            f"option {shown(name)}", "there is no such option",
            f"Did you mean {near!r}?" if near else f"Known: {', '.join(known)}.",
        )  # fmt: skip


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that `name` may have been meant to be."""
    from difflib import get_close_matches  # for mistakes only

    return next(iter(get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def whole(option: str, value: Any, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        refuse(option, value, f"must be a whole number of at least {least}")
    if value > LARGEST:
        refuse(option, value, f"must be at most {LARGEST}", "Give a smaller number, or leave it out.")
    return value


def priority(value: Any) -> int:
    """-100 to 100 (docs/protocol.md, L5)."""
    if isinstance(value, bool) or not isinstance(value, int) or not -100 <= value <= 100:
        refuse("priority", value, "must be a whole number from -100 to 100", "Higher goes first; the default is 0.")
    return int(value)


def seconds(option: str, value: Any, *, zero: bool = False, least: float = 0) -> float:
    """A number of seconds, or a timedelta."""
    value = in_seconds(value)
    good = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    good = good and not isinstance(value, bool)
    if not good or value < least or (value == 0 and not zero):
        bound = f"at least {least:g}" if least else "0 or more" if zero else "above 0"
        refuse(option, value, f"must be a finite number of seconds, {bound}")
    if value > LONGEST:
        refuse(option, value, f"must be at most {LONGEST:.0f} seconds (100 years)", "Give less, or leave it out.")
    return float(value)


def one_of(option: str, value: Any, choices: tuple[str, ...]) -> Any:
    if value not in choices or not isinstance(value, str):
        refuse(option, value, f"must be one of {', '.join(map(repr, choices))}")
    return value


def status(value: Any) -> JobStatus:
    """A status, or its number. Raises `InvalidOption`."""
    if isinstance(value, int) and not isinstance(value, bool) and value in tuple(JobStatus):
        return JobStatus(value)
    refuse("status", value, f"must be one of {', '.join(map(str, JobStatus.__members__))}", "Pass a JobStatus.")


def instant(option: str, value: Any) -> datetime | None:
    """None, or an aware datetime as a plain one in UTC. At the edge of the calendar, the last instant that every zone
    can show."""
    if value is None:
        return None
    if not isinstance(value, datetime):
        refuse(option, value, "must be a datetime", "For example: datetime.now(UTC) + timedelta(hours=1).")
    try:
        return utc(value)
    except Refused as refused:
        refuse(option, value, refused.reason, "For example: datetime.now(UTC).")


def text(option: str, value: Any) -> None:
    """None, or text that a store could hold."""
    if not isinstance(value, str | None):
        refuse(option, value, "must be a string", "Pass the name of a job or handler.")
    if value is not None and not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        refuse(
            option, value, "must be text without lone surrogates, which no store holds", "Decode it as it was encoded."
        )


def path(option: str, value: PurePath) -> None:
    """A path that the file system can name."""
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        refuse(option, str(value), "must be a path that the file system can encode", "Use other characters.")


def name(value: Any, what: str) -> str:
    """A job or handler name that every layer can carry. Raises `InvalidName`."""

    def wrong(rule: str, remedy: str) -> NoReturn:
        raise InvalidName(shown(value), rule, remedy, name=f"{what} name")

    if not isinstance(value, str):
        wrong("must be a string", 'For example: "send-email-order-123".')
    if not value.strip():
        wrong("must not be empty", 'For example: "send-email-order-123".')
    if len(value) > LONGEST_NAME:
        wrong(f"must have at most {LONGEST_NAME} characters", f"It has {len(value)}. Put details into metadata.")
    if value in (".", ".."):
        wrong("must not be a path", 'For example: "send-email-order-123".')
    if value.isascii() and value.isprintable() and _FORBIDDEN.isdisjoint(value):
        return str(value)
    for character in value:
        if character in _FORBIDDEN:
            wrong(f"must not contain {character!r}", "Use '-', '_', '.' or ':' instead.")
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") or _INVISIBLE.match(character):
            wrong(f"must not contain U+{ord(character):04X}, a control or invisible character", "Remove it.")
    return str(value)
