"""Random valid expressions, with a liking for the hours in which clocks change."""

from __future__ import annotations

from random import Random

from aether_bg.errors import InvalidSchedule
from aether_bg.schedule import parse

from .oracle import MONTHS, WEEKDAYS


def number(random: Random, low: int, high: int) -> str:
    return f"{'0' * (random.random() < 0.1)}{random.randint(low, high)}"


def spread(random: Random, low: int, high: int) -> str:
    first = random.randint(low, high)
    return f"{first}-{random.randint(first if random.random() < 0.8 else low, high)}"


def rising(random: Random, low: int, high: int) -> str:
    first = random.randint(low, high)
    return f"{first}-{random.randint(first, high)}"


def part(random: Random, low: int, high: int) -> str:
    size = high - low + 1
    step = random.randint(1, random.choice((3, size)))
    forms = [
        lambda: number(random, low, high),
        lambda: spread(random, low, high),
        lambda: f"{rising(random, low, high) if high == 31 else spread(random, low, high)}/{step}",
        lambda: f"{random.randint(low, min(high, 6))}/{step}",
    ]
    return random.choice(forms)()


def several(random: Random, low: int, high: int) -> str:
    return ",".join(part(random, low, high) for _ in range(random.choice((1, 1, 2, 3))))


def named(random: Random, words: str) -> str:
    first, last = (random.choice(words.split()) for _ in range(2))
    case = random.choice((str.upper, str.lower, str.title))
    size = len(words.split())
    return case(
        random.choice((first, f"{first}-{last}", f"{first}-{last}/{random.randint(1, size)}", f"{first},{last}"))
    )


def minute(random: Random) -> str:
    step = random.choice((1, 2, 5, 7, 10, 15, 20, 30, 45, 60))
    return random.choice(("*", f"*/{step}", "0", "30", number(random, 0, 59), several(random, 0, 59)))


def hour(random: Random) -> str:
    night = random.choice((0, 1, 2, 3, 22, 23))
    step = random.randint(1, 24)
    return random.choice(
        ("*", f"*/{step}", str(night), str(night), "0-4", "0-23", "0,1,2,3,23", several(random, 0, 23))
    )


def month_day(random: Random) -> str:
    step = random.randint(1, 31)
    picks = (f"L-{random.randint(1, 30)}", "LW", f"{random.randint(1, 31)}W", "1W,15W,LW", f"L-{step % 7 + 1}W,5")
    return random.choice(
        ("*", "*", "*", "?", f"*/{step}", "L", "L,1,15", "1-31", several(random, 1, 31), random.choice(picks))
    )


def month(random: Random) -> str:
    return random.choice(("*", "*", "*", "*/2", several(random, 1, 12), named(random, MONTHS)))


def weekday(random: Random) -> str:
    nth = f"{random.choice(('0', '5', '7', 'SUN', 'sat'))}#{random.randint(1, 5)}"
    return random.choice(
        ("*", "*", "*", "?", f"*/{random.randint(1, 7)}", nth, f"{nth},1#1", "0", "7", several(random, 0, 6),
         f"{random.randint(0, 7)}L", "FRIL,1#2,7L",
         "5-7", "SAT,SUN", named(random, WEEKDAYS))
    )  # fmt: skip


def expression(random: Random) -> str:
    fields = [minute(random), hour(random), month_day(random), month(random), weekday(random)]
    if random.random() < 0.3:
        fields.insert(0, random.choice(("*", "*/10", "0", "59", several(random, 0, 59))))
    return random.choice((" ", " ", "\t ")).join(fields)


def refusal(text: str, timezone: str | None = None) -> InvalidSchedule | None:
    """What `parse` has against it."""
    try:
        parse(text, timezone)
    except InvalidSchedule as refused:
        return refused
    return None
