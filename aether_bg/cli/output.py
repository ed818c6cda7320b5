"""What the commands print: aligned tables and fields for people, JSON for machines, progress."""

from __future__ import annotations

import io
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, tzinfo
from itertools import repeat
from typing import Any, Final, TypeVar

import click

from aether_bg.explain import plain
from aether_bg.model.plain import to_plain

F = TypeVar("F", bound=Callable[..., Any])

_COLOURS: Final = {"failed": "red", "dead": "red", "problem": "red", "running": "green", "silent": "yellow"}


def json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Machine-readable output, with stable keys.")(command)


def local_option(command: F) -> F:
    return click.option("--local", is_flag=True, help="Times in this machine's zone instead of UTC.")(command)


# -- machines ------------------------------------------------------------------------------------


def print_line(value: Any) -> None:
    """One of many: JSON Lines. ASCII only, so that nothing stored reaches a terminal raw."""
    click.echo(json.dumps(to_plain(value), allow_nan=False))


def print_document(value: Any) -> None:
    click.echo(json.dumps(to_plain(value), indent=2, allow_nan=False))


# -- people --------------------------------------------------------------------------------------


def zone_of(local: bool) -> tzinfo | None:
    """For `astimezone`: None means the machine's zone."""
    return None if local else UTC


def at(when: datetime | None, local: bool = False) -> str:
    """`2026-01-31T02:30:00Z`, or with the machine's offset."""
    if when is None:
        return "-"
    try:
        when = when.astimezone(zone_of(local))
    except (OverflowError, ValueError):  # at an end of the calendar: stay in UTC
        when = when.astimezone(UTC)
    return when.isoformat(timespec="seconds").replace("+00:00", "Z")


def pretty(value: Any) -> str:
    """JSON for people, its strings escaped wherever they could move a cursor."""
    text = json.dumps(to_plain(value), indent=2, ensure_ascii=False)
    return "\n".join(plain(line) for line in text.split("\n"))


def one_line(text: str | None, most: int = 100) -> str:
    """The first line of stored text, escaped and bounded."""
    lines = (text or "").strip().splitlines()
    first = plain(lines[0]) if lines else "-"
    return first if len(first) <= most else first[: most - 1] + "…"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as their widest cell. Every cell is escaped here."""
    cells = [list(headers), *([plain(cell) for cell in row] for row in rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    for index, row in enumerate(cells):
        padded = [cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        padded[-1] = row[-1]
        if index and _colourful():
            padded = [_coloured(cell) for cell in padded]
        click.echo("  ".join(padded).rstrip())


def fields(pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values, aligned; a value of several lines goes below its name."""
    known = list(pairs)
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        if "\n" in value:
            click.echo(f"{name}:")
            click.echo("\n".join(f"  {line}" for line in value.split("\n")))
        else:
            click.echo(f"{name + ':':<{width + 1}} {value}".rstrip())


def note(text: str) -> None:
    """For people, on stderr."""
    click.echo(plain(text), err=True)


def _width(text: str) -> int:
    """Columns on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _colourful() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _coloured(cell: str) -> str:
    colour = _COLOURS.get(cell.strip().lower())
    return click.style(cell, fg=colour) if colour else cell


def progress_bar(label: str, total: int = 0) -> Any:
    """click's progress bar, on stderr if that is a terminal, else nowhere. `total` 0: unknown, or set later as
    `length`."""
    file = sys.stderr if sys.stderr.isatty() else io.StringIO()
    return click.progressbar(repeat(0), length=total or None, label=label, file=file)
