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
LAST_WEEKDAY = re.compile(r"([0-9]+|[A-Z]{3})L")
PICK = re.compile(r"(?:L(?:-([0-9]+))?|([0-9]+))(W)?")
PART = re.compile(r"(\*|[0-9]+|[A-Z]+)(?:-([0-9]+|[A-Z]+))?(?:/([0-9]+))?")

HINTS = (
    (r"[HR](\(.*)?(/.*)?", "hashed and random values (H, R) are not supported: write the number"),
    (r"W[0-9]*|WL", "W must follow a day: 15W is the weekday nearest to day 15, LW the last one"),
    (r".*-.*W|.*W[-/].*", "W must follow one day, not a range or step"),
    (r"L-|L-.*[^0-9W].*", "L- must be followed by a number of days: L-3 is three days before the last"),
    (r"L[0-9]+", "L must follow the weekday: 5L is the last Friday of the month"),
    (r".*-L", "L cannot end a range: a month's last day differs"),
    (r"[+-].*|.*/-.*|.*--.*", "signs are not allowed"),
    (r"[0-9]+[.,][0-9]+", "only whole numbers are allowed"),
    (r".*-.*-.*|.*/.*/.*", "a part must be one value, one range or one step"),
    (r"[A-Z]+-[A-Z]+#.*|[0-9]+-[0-9]+#.*", "# must follow one weekday, not a range"),
    (r"[A-Z]+-[A-Z]+L|[0-9]+-[0-9]+L", "L must follow one weekday, not a range"),
)
LAST = -1
"""The number of a weekday in the month, counted from its end: `5L` is the pair (5, LAST)."""


@attrs.frozen(order=True)
class Pick:
    """One day of a month that depends on the month: `L`, `L-3`, `15W`, `LW`."""

    number: int = 0
    """The day; from the end: how many days before the last."""
    from_end: bool = True
    nearest: bool = False
    """The weekday, Monday to Friday, nearest to it in the same month."""

    def day(self, length: int, first: int) -> int | None:
        """The day in a month of that length whose day 1 is the weekday `first`, 0 is Sunday; None: it has no such
        day."""
        day = length - self.number if self.from_end else self.number
        if not 1 <= day <= length:
            return None
        weekday = (first + day - 1) % 7
        if not self.nearest or 0 < weekday < 6:
            return day
        if weekday == 6:
            return day - 1 if day > 1 else day + 2
        return day + 1 if day < length else day - 2


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
    picks: tuple[Pick, ...] = ()
    """Of day-of-month: `L` and `W`, in addition to `values`."""
    nth: tuple[tuple[int, int], ...] = ()
    """Of day-of-week: `5#2` and `5L`, pairs of weekday and number in the month, instead of `values`."""

    @property
    def full(self) -> bool:
        return len(self.values) == self.kind.size


ANY_DAY = Field(DAY, tuple(range(1, 32)), star=True)
ANY_WEEKDAY = Field(WEEKDAY, tuple(range(7)), star=True)


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
        return ANY_DAY if kind is DAY else ANY_WEEKDAY
    parts = word.split(",")
    values: set[int] = set()
    picks: set[Pick] = set()
    nth: set[tuple[int, int]] = set()
    for part in parts:
        if "*" in part and len(parts) > 1:
            raise refusal(kind, f"'{part}' cannot stand in a list: * already names every value")
        if kind is DAY and not part.isdigit() and (match := PICK.fullmatch(part)) is not None:
            picks.add(read_pick(part, *match.groups()))
        elif "#" in part or (kind is WEEKDAY and LAST_WEEKDAY.fullmatch(part)):
            nth.add(read_nth(kind, part))
        else:
            values |= read_part(kind, part)
    if nth and values:
        reason = f"'{word}' mixes weekdays of every week with single ones of the month (# and L)"
        raise refusal(kind, reason, "0 3 * * FRI#2")
    return Field(
        kind, tuple(sorted(values)), star="*" in word, stepped="/" in word, picks=tuple(sorted(picks)),
        nth=tuple(sorted(nth)),
    )  # fmt: skip


def read_pick(part: str, before: str | None, day: str | None, nearest: str | None) -> Pick:
    """`L`, `L-3`, `15W`, `LW`, `L-3W`."""
    if day is not None:
        return Pick(value(DAY, day, part), from_end=False, nearest=True)
    if before is not None and not 1 <= int(before) <= 30:
        raise refusal(DAY, f"'{part}': {before} is out of range: L- must be followed by 1 to 30", "0 3 L-3 * *")
    return Pick(int(before or 0), nearest=nearest is not None)


def read_nth(kind: Kind, part: str) -> tuple[int, int]:
    """`5#2`, `FRI#2` or `5L`: weekday and its number in the month."""
    if kind is not WEEKDAY:
        raise refusal(kind, f"'{part}': # belongs to day-of-week")
    if (match := LAST_WEEKDAY.fullmatch(part)) is not None:
        return value(kind, match[1], part) % 7, LAST
    if (match := NTH.fullmatch(part)) is None:
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
    if low > high:
        if kind is DAY and step > 1:
            raise refusal(kind, f"'{part}': a step across the end of a month has a reading for each length of month")
        high += kind.size
    return {(number - kind.low) % kind.size + kind.low for number in range(low, high + 1, step)}


def value(kind: Kind, word: str, part: str) -> int:
    """A number in the field's limits (7 for Sunday too), or one of its names. It is in `part`."""
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
    if kind is DAY and LAST_WEEKDAY.fullmatch(part):
        return refusal(kind, f"'{part}': L after a weekday belongs to day-of-week", "0 3 * * 5L")
    if kind is WEEKDAY and re.fullmatch(r"L?W|[0-9]+W|W[0-9]+", part):
        return refusal(kind, f"'{part}': W belongs to day-of-month; Monday to Friday are MON-FRI")
    for pattern, hint in HINTS:
        if re.fullmatch(pattern, part):
            return refusal(kind, f"'{part}': {hint}")
    if "?" in part:
        return refusal(kind, f"'{part}': ? must stand alone, in day-of-month or day-of-week")
    if "L" in part.split("/")[0].split("-"):
        if kind is WEEKDAY:
            reason = f"'{part}': L is the last day in day-of-month; here L must follow one weekday"
            return refusal(kind, reason, "0 3 * * 5L")
        return refusal(kind, f"'{part}': L is the last day of the month, in day-of-month and in no range")
    named = f", or {'-'.join((*kind.names,)[:: len(kind.names) - 1])}" if kind.names else ""
    return refusal(kind, f"'{part}' is not a {kind.name}: {kind.low} to {kind.high}{named}")


def refusal(kind: Kind, reason: str, example: str | None = None) -> Refused:
    return Refused(kind.name, reason, example or kind.example)
