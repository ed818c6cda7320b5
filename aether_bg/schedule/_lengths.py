"""Lengths of time: read in Go's and ISO 8601's notation, written in ISO 8601 and in words, exactly."""

from __future__ import annotations

import re
from datetime import timedelta

from ._model import Refused

UNITS = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}
GO = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h))+")
GO_TERM = re.compile(r"([0-9]+)(?:\.([0-9]+))?(ms|s|m|h)")

NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
ISO = re.compile(rf"P(?:{NUMBER}W|(?:{NUMBER}D)?(?:T(?=[0-9])(?:{NUMBER}H)?(?:{NUMBER}M)?(?:{NUMBER}S)?)?)")
ISO_UNITS = (7 * 24 * UNITS["h"], 24 * UNITS["h"], UNITS["h"], UNITS["m"], UNITS["s"])

EXAMPLE = "@every 1h30m"


def read(text: str) -> timedelta:
    """`1h30m` or `PT1H30M`."""
    micros = read_iso(text) if text.startswith("P") else read_go(text)
    try:
        return timedelta(microseconds=micros)
    except OverflowError:
        raise Refused(None, f"'{text}' reaches past the year 9999", EXAMPLE) from None


def read_go(text: str) -> int:
    if GO.fullmatch(text) is None:
        if text.startswith(("-", "+")):
            raise Refused(None, f"'{text}': a length must not have a sign", EXAMPLE)
        raise Refused(None, f"'{text}' is not a length: numbers with h, m, s or ms, or ISO 8601 as PT90S", EXAMPLE)
    return sum(exact(whole, part, UNITS[unit], text) for whole, part, unit in GO_TERM.findall(text))


def read_iso(text: str) -> int:
    match = ISO.fullmatch(text)
    if match is None or not any(match.groups()):
        raise Refused(
            None,
            f"'{text}' is not an ISO 8601 duration of weeks, or of days, hours, minutes, seconds",
            "@every PT90S",
        )
    terms = [(term, unit) for term, unit in zip(match.groups(), ISO_UNITS, strict=True) if term]
    if any("." in term for term, _ in terms[:-1]):
        raise Refused(None, f"'{text}': only the last number of a duration may have a fraction", "@every PT1.5H")
    return sum(exact(*fraction(term), unit, text) for term, unit in terms)


def fraction(number: str) -> tuple[str, str]:
    whole, _, part = number.partition(".")
    return whole, part


def exact(whole: str, part: str, unit: int, text: str) -> int:
    """`whole`.`part` units in microseconds."""
    micros, rest = divmod(int(part or "0") * unit, int("1" + "0" * len(part)))
    if rest:
        raise Refused(None, f"'{text}' is finer than a microsecond", EXAMPLE)
    return int(whole) * unit + micros


def pieces(length: timedelta) -> tuple[int, int, int, int, int]:
    """Days, hours, minutes, seconds, microseconds."""
    minutes, seconds = divmod(length.seconds, 60)
    return length.days, *divmod(minutes, 60), seconds, length.microseconds


def write(length: timedelta) -> str:
    """ISO 8601, as `read` reads it: `P1DT2H`."""
    days, hours, minutes, seconds, micros = pieces(length)
    fraction = f".{micros:06}".rstrip("0") if micros else ""
    clock = "".join(
        f"{number}{letter}"
        for number, letter in ((hours, "H"), (minutes, "M"), (f"{seconds}{fraction}", "S"))
        if number not in (0, "0")
    )
    return "P" + (f"{days}D" if days else "") + (f"T{clock}" if clock else "" if days else "T0S")


def words(length: timedelta) -> str:
    """`1 hour 30 minutes`."""
    days, hours, minutes, seconds, micros = pieces(length)
    millis, micros = divmod(micros, 1000)
    named = (
        (days, "day"), (hours, "hour"), (minutes, "minute"), (seconds, "second"),
        (millis, "millisecond"), (micros, "microsecond"),
    )  # fmt: skip
    return " ".join(f"{n} {unit}{'' if n == 1 else 's'}" for n, unit in named if n) or "no time"
