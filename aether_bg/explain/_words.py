"""Times, lengths and stored text, for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo


def plain(text: str) -> str:
    """Stored text, safe for a terminal or a log: on one line, without control or direction characters."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def first_line(error: str | None) -> str:
    """The most useful line of an error: the first that is not blank."""
    lines = (error or "").strip().splitlines()
    return plain(lines[0].strip()[:500]).rstrip(".") if lines else "no error recorded"


def distance(late: float) -> str:
    return f"{span(late)} ago" if late > 0 else f"in {span(-late)}"


def span(seconds: float) -> str:
    """A length for people: its two largest units."""
    if seconds < 1:
        return f"{max(seconds, 0):.2g} s" if seconds >= 0.01 else "0 s"
    if seconds < 60:
        return f"{seconds:.3g} s"
    left, parts = timedelta(seconds=round(seconds)), []
    for name, unit in (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("min", timedelta(minutes=1)), ("s", None)):
        count = left.seconds if unit is None else left // unit
        left = left if unit is None else left % unit
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2])


def moment(when: datetime | None, zone: tzinfo) -> str:
    if when is None:
        return "an unknown time"
    try:
        when = when.astimezone(zone)
    except (OverflowError, ValueError):  # at an end of the calendar: stay in UTC
        when = when.astimezone(UTC)
    return when.isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")
