"""Stored text and times as the page shows them. Jinja escapes HTML; this keeps out control and direction characters and
bounds the length. Payloads are shown as far as the page may."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

from aether_bg.explain import plain
from aether_bg.explain._words import span

Payloads: TypeAlias = Literal["hidden", "keys", "shown"]
MOST: Final = 20_000
"""Characters of one text on a page."""
_DEEP, _WIDE = 6, 40
_UNITS: Final = (("s", 1, 60), ("min", 60, 7200), ("h", 3600, 172800), ("d", 86400, float("inf")))
"""A unit, its seconds, and up to which length it is used."""


def line(text: Any, most: int = 200) -> str:
    """On one line."""
    cut = plain(str(text or "")[: most + 1])
    return cut if len(cut) <= most else cut[: most - 1] + "…"


def head(text: str | None, most: int = 200) -> str:
    """Of an error, the first line that is not blank."""
    lines = (text or "").lstrip()[: most + 2].splitlines()
    return line(lines[0].rstrip(), most) if lines else "no error recorded"


def block(text: str | None, most: int = MOST) -> str:
    """Lines stay lines."""
    text = text or ""
    left = len(text) - most
    kept = "\n".join(plain(part) for part in text[:most].splitlines())
    return kept if left <= 0 else f"{kept}\n… {left:,} more characters"


def instant(when: datetime | None) -> str:
    if when is None:
        return "–"
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def ago(when: datetime | None, now: datetime) -> str:
    """`3 min ago`, `in 2 h`."""
    if when is None:
        return "never"
    passed = (now - when).total_seconds()
    seconds = abs(passed)
    if seconds < 1:
        return "now"
    unit, of, _ = next(one for one in _UNITS if seconds < one[2])
    text = f"{seconds // of:,.0f} {unit}"
    return f"{text} ago" if passed > 0 else f"in {text}"


def length(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else span(seconds)


def number(value: int | float | None) -> str:
    return "–" if value is None else f"{value:,}"


def payload(value: Any, how: Payloads) -> str | None:
    """As JSON for people; None when it is not to be shown."""
    if how == "hidden":
        return None
    seen = outline(value) if how == "keys" else value
    return block(json.dumps(seen, indent=2, ensure_ascii=False, default=str))


def outline(value: Any, depth: int = 0) -> Any:
    """The keys and kinds of a JSON value, without its contents."""
    match value:
        case None | bool():
            return "null" if value is None else "true or false"
        case int() | float():
            return "number"
        case str():
            return f"text, {len(value):,} characters"
        case Mapping() if depth < _DEEP:
            items = list(value.items())
            seen = {line(key, 80): outline(item, depth + 1) for key, item in items[:_WIDE]}
            return seen | ({"…": f"{len(items) - _WIDE:,} more keys"} if len(items) > _WIDE else {})
        case list() | tuple() if depth < _DEEP:
            head = [outline(value[0], depth + 1)] if value else []
            return [*head, *([f"… {len(value):,} items in all"] if len(value) > 1 else [])]
    return "…"
