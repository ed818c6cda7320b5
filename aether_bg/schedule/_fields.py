"""The grammar of cron fields: from text to the values that it names. No dates here, and no zones."""

from __future__ import annotations

import re

import attrs

from ._model import Refused

WEEKDAYS = {name: number for number, name in enumerate(("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"))}
MONTHS = {
    name: number
    for number, name in enumerate(
        ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"), 1
    )
}

NTH = re.compile(r"([0-9]+|[A-Z]+)#([0-9]+)")
PART = re.compile(r"(\*|[0-9]+|[A-Z]+)(?:-([0-9]+|[A-Z]+))?(?:/([0-9]+))?")

HINTS = (
    (re.compile(r"[HR](\(.*)?(/.*)?"), "hashed and random values (H, R) are not supported: write the number"),
    (re.compile(r"L?W|[0-9]+W|W[0-9]+"), "nearest weekdays (W) are not supported"),
    (re.compile(r"L-.*"), "days counted from the end of the month are not supported, only L itself"),
    (re.compile(r".*-L"), "L cannot end a range: a month's last day differs"),
    (re.compile(r"[+-].*|.*/-.*|.*--.*"), "signs are not allowed"),
    (re.compile(r"[0-9]+[.,][0-9]+"), "only whole numbers are allowed"),
    (re.compile(r".*-.*-.*|.*/.*/.*"), "a part must be one value, one range or one step"),
    (re.compile(r"[A-Z]+-[A-Z]+#.*|[0-9]+-[0-9]+#.*"), "# must follow one weekday, not a range"),
)


@attrs.frozen
class Kind:
    """One of the six positions: its name, its limits and what it can contain besides numbers."""

    name: str
    low: int
    high: int
    example: str
    names: dict[str, int] = attrs.field(factory=dict)
    day: bool = False

    @property
    def size(self) -> int:
        return self.high - self.low + 1


SECOND = Kind("second", 0, 59, "*/10 * * * * *")
MINUTE = Kind("minute", 0, 59, "*/15 * * * *")
HOUR = Kind("hour", 0, 23, "0 9-17 * * *")
DAY = Kind("day-of-month", 1, 31, "0 3 1,15 * *", day=True)
MONTH = Kind("month", 1, 12, "0 3 1 JAN,JUL *", names=MONTHS)
WEEKDAY = Kind("day-of-week", 0, 6, "0 3 * * MON-FRI", names=WEEKDAYS, day=True)
KINDS = (SECOND, MINUTE, HOUR, DAY, MONTH, WEEKDAY)


@attrs.frozen
class Field:
    """The values of one field. In day-of-week, 0 is Sunday."""

    kind: Kind
    values: tuple[int, ...]
    star: bool = False
    """Written with `*` or `?`."""
    stepped: bool = False
    last: bool = False
    """`L`: the last day of the month, in addition to `values`."""
    nth: tuple[tuple[int, int], ...] = ()
    """`5#2`: pairs of weekday and number in the month, instead of `values`."""

    @property
    def full(self) -> bool:
        return len(self.values) == self.kind.size


def split(text: str) -> tuple[Field, ...]:
    """The six fields of `text`; of five, the seconds are 0."""
    words = re.split(r"[ \t]+", text)
    if len(words) not in (5, 6):
        raise Refused(
            None,
            f"must have 5 fields (minute hour day-of-month month day-of-week) or 6 (second first), not {len(words)}",
            "30 2 * * MON",
        )
    if len(words) == 5:
        words.insert(0, "0")
    return tuple(read(kind, word.upper()) for kind, word in zip(KINDS, words, strict=True))


def read(kind: Kind, word: str) -> Field:
    """One field, in capitals."""
    if kind.day and word == "?":
        return Field(kind, tuple(range(kind.low, kind.high + 1)), star=True)
    parts = word.split(",")
    values: set[int] = set()
    nth: set[tuple[int, int]] = set()
    last = False
    for part in parts:
        if "*" in part and len(parts) > 1:
            raise refusal(kind, f"'{part}' cannot stand in a list: * already names every value")
        if part == "L" and kind is DAY:
            last = True
        elif "#" in part:
            nth.add(read_nth(kind, part))
        else:
            values |= read_part(kind, part)
    if nth and values:
        raise refusal(kind, f"'{word}' mixes weekdays of every week with numbered ones (#)", "0 3 * * FRI#2")
    return Field(kind, tuple(sorted(values)), star="*" in word, stepped="/" in word, last=last, nth=tuple(sorted(nth)))


def read_nth(kind: Kind, part: str) -> tuple[int, int]:
    """`5#2` or `FRI#2`: weekday and its number in the month."""
    match = NTH.fullmatch(part)
    if kind is not WEEKDAY:
        raise refusal(kind, f"'{part}': # belongs to day-of-week")
    if match is None:
        raise unreadable(kind, part)
    number = int(match[2])
    if not 1 <= number <= 5:
        raise refusal(kind, f"'{part}': a month has a weekday 1 to 5 times, not {match[2]}", "0 3 * * FRI#2")
    return value(kind, match[1], part) % 7, number


def read_part(kind: Kind, part: str) -> set[int]:
    """A value, a range or a step."""
    match = PART.fullmatch(part)
    if match is None or (match[1] == "*" and match[2]):
        raise unreadable(kind, part)
    begin, end, stride = match.groups()
    step = 1 if stride is None else int(stride)
    if not 1 <= step <= kind.size:
        raise refusal(kind, f"'{part}': a step must be 1 to {kind.size}, not {stride}")
    if begin == "*":
        return set(range(kind.low, kind.high + 1, step))
    low = value(kind, begin, part)
    if end is None:
        if stride is None:
            return {low % 7 if kind is WEEKDAY else low}
        if kind is WEEKDAY and low == 7:
            raise refusal(kind, f"'{part}': a step from 7 has two readings: write 0-6/{stride} or SUN")
        return set(range(low, kind.high + 1, step))
    high = value(kind, end, part)
    if begin.isalpha() != end.isalpha():
        raise refusal(kind, f"'{part}' mixes a name and a number")
    if low > high and begin.isalpha():
        high += kind.size
    if low > high:
        raise refusal(kind, f"'{part}': a range of numbers must ascend")
    return {(number - kind.low) % kind.size + kind.low for number in range(low, high + 1, step)}


def value(kind: Kind, word: str, part: str) -> int:
    """A number in the field's limits, 7 as well for Sunday, or one of its names. It stands in `part`."""
    if word.isdigit():
        number = int(word)
        if kind.low <= number <= kind.high or (kind is WEEKDAY and number == 7):
            return number
        high = 7 if kind is WEEKDAY else kind.high
        raise refusal(kind, f"{word} is out of range: {kind.name} must be {kind.low} to {high}")
    if word not in kind.names:
        raise unreadable(kind, part)
    return kind.names[word]


def unreadable(kind: Kind, part: str) -> Refused:
    """The refusal of something that is not a value, range or step; with the likely cause, if there is one."""
    if not part:
        return refusal(kind, "a value is missing in the list")
    for pattern, hint in HINTS:
        if pattern.fullmatch(part):
            return refusal(kind, f"'{part}': {hint}")
    if "?" in part:
        return refusal(kind, f"'{part}': ? must stand alone, in day-of-month or day-of-week")
    if "L" in part.split("/")[0].split("-"):
        return refusal(kind, f"'{part}': L is the last day of the month, in day-of-month and in no range")
    named = f", or {'-'.join((*kind.names,)[:: len(kind.names) - 1])}" if kind.names else ""
    return refusal(kind, f"'{part}' is not a {kind.name}: {kind.low} to {kind.high}{named}")


def refusal(kind: Kind, reason: str, example: str | None = None) -> Refused:
    return Refused(kind.name, reason, example or kind.example)
