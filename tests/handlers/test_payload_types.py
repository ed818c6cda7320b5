"""Payload types: what is enqueued comes back as it was, or is refused at the enqueue with the path of what is wrong."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import enum
import ipaddress
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, Literal, NamedTuple, NewType, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import pytest
from handlers.through import all_through, not_refused, through

from aether_bg import Aether, AlreadyStarted, InvalidHandler, InvalidOption, InvalidPayload, JobType

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.any_store]

WHEN = datetime(2030, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


class Color(str, enum.Enum):  # noqa: UP042 - the older way
    RED = "red"
    BLUE = "blue"


class Size(enum.StrEnum):
    S = "s"


class Level(int, enum.Enum):
    LOW = 1
    HIGH = 2


class Rank(enum.IntEnum):
    ONE = 1


class Right(enum.IntFlag):
    READ = 1
    WRITE = 2


class Kind(enum.Enum):
    A = "a"
    B = 2


class Point(NamedTuple):
    x: int
    at: datetime
    color: Color = Color.RED


Pair = collections.namedtuple("Pair", ["a", "b"])
UserId = NewType("UserId", int)


class Text(str): ...


class Options(TypedDict):
    color: Color
    at: datetime


@attrs.define
class Base:
    name: str


@attrs.define
class More(Base):
    extra: int = 0


@attrs.define
class Same(Base): ...


@attrs.define(eq=False)
class Uncompared:
    name: str


@attrs.define(eq=False)
class UncomparedMore(Uncompared):
    extra: int = 0


@dataclasses.dataclass
class Order:
    at: datetime
    day: date
    lines: list[Base]
    color: Color = Color.RED
    path: PurePath = dataclasses.field(default_factory=PurePath)
    cache: dict[int, str] = dataclasses.field(default_factory=dict)
    done: bool = dataclasses.field(default=False, init=False)


@attrs.define
class Holds:
    it: Any = None
    some: dict[str, Any] = attrs.field(factory=dict)
    mixed: datetime | str | None = None
    base: Base | None = None
    day: date | None = None
    when: datetime | None = None
    text: str = ""
    number: float = 0.0
    numbers: list[int] = attrs.field(factory=list)
    several: set[Color] = attrs.field(factory=set)


GOOD: list[tuple[Any, Any]] = [
    *[(type(member), member) for member in (Color.RED, Size.S, Level.HIGH, Rank.ONE, Kind.A, Kind.B)],
    (Right, Right.READ | Right.WRITE),
    (Color | None, Color.BLUE), (Color | None, None), (list[Color], [Color.RED, Color.BLUE]),
    (dict[Color, int], {Color.RED: 1}), (dict[Level, Kind], {Level.LOW: Kind.B}), (dict[str, Level], {"a": Level.LOW}),
    (set[Color], {Color.RED}), (tuple[Color, int], (Color.RED, 1)),
    (dict[int, str], {1: "a", -2: "b"}), (dict[int, dict[int, Base]], {1: {2: Base("x")}}),
    (collections.abc.Mapping[int, str], {1: "a"}), (dict[float, int], {1.5: 1}), (dict[bool, int], {True: 1}),
    (dict[UUID, date], {UUID(int=1): date(2030, 1, 2)}), (dict[datetime, int], {WHEN: 1}),
    (dict[tuple[int, str], int], {(1, "a"): 2}), (dict[str, int], {"1": 1}), (dict[UserId, int], {UserId(3): 1}),
    (collections.OrderedDict[int, str], collections.OrderedDict({2: "b", 1: "a"})),
    (Path, Path("/a/b")), (PurePath, PurePath("a/b")), (PurePosixPath, PurePosixPath("a")),
    (PureWindowsPath, PureWindowsPath("C:\\x")), (list[Path], [Path("a")]),
    *[
        (type(value), value)
        for value in (
            ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("::1"), ipaddress.ip_network("10.0.0.0/8"),
            ipaddress.ip_network("2001:db8::/32"), ipaddress.ip_interface("10.0.0.1/8"),
        )
    ],
    (ipaddress.IPv4Address | ipaddress.IPv6Address, ipaddress.ip_address("::1")),
    (Point, Point(1, WHEN, Color.BLUE)), (list[Point], [Point(1, WHEN)]), (Pair, Pair(1, "b")),
    (Literal["a", "b"], "a"), (Literal[1, "1"], 1), (Literal[Color.RED, None], Color.RED), (list[Literal[1]], [1]),
    (Options, {"color": Color.RED, "at": WHEN}),
    (Order, Order(WHEN, date(2030, 1, 2), [Base("a")], Color.BLUE, PurePosixPath("x"), {1: "a"})),
    (datetime | str, "2030-01-01T00:00:00+00:00"), (datetime | None, WHEN), (datetime | int, WHEN),
    (datetime | date | None, None), (list[Base] | str, [Base("a")]),
    (date, date(2030, 1, 2)), (time, time(1, 2, 3)), (Decimal, Decimal("1.10")), (bytes, b"\x00\xff"),
    (timedelta, timedelta(days=3, microseconds=7)), (Text, Text("a")), (UserId, UserId(7)),
    (datetime, datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)),
    (datetime, datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN)),
    (datetime, WHEN.astimezone(timezone(timedelta(hours=5, minutes=45)))),
    (dict[str, object], {"a": [1, {"b": None}], "c": 1.5}), (object, {"a": [1]}), (list[object], [1, "a"]),
    (dict[str, Any], {"a": [1, {"b": None}], "c": 1.5}), (dict, {"a": [1]}), (list, [1, "a"]), (set, {1, 2}),
    (Any, {"a": [True, 1, 1.0, "x", None]}), (Uncompared, Uncompared("a")),
    (Holds, Holds(mixed="2030-01-01", base=Base("a"), number=3, several={Color.RED})),
    (frozenset[int], frozenset({1})), (tuple[int, ...], (1, 2)), (collections.deque[int], collections.deque([1])),
]  # fmt: skip


def _same(back: Any, payload: Any) -> bool:
    if type(back) is not type(payload):
        return False
    if isinstance(payload, Uncompared):
        return bool(back.name == payload.name)
    if isinstance(payload, datetime):
        return bool(back.astimezone(UTC) == payload.astimezone(UTC))
    return bool(back == payload)


async def test_it_comes_back_as_it_was(app: Aether) -> None:
    came = await all_through(app, GOOD)
    changed = [(kind, payload, back) for (kind, payload), back in zip(GOOD, came, strict=True)
               if not _same(back, payload)]  # fmt: skip
    assert changed == []


class Exact(str): ...


BAD: list[tuple[Any, Any, str]] = [
    # checked
    (Color, "green", "green"), (Color, 1, "1"), (Size, Color.RED, "red"), (Level, 7, "7"), (Level, True, "True"),
    (Rank, "1", "'1'"), (Kind, 2.0, "2.0"), (list[Color], ["red", "green"], r"\$\[1\]"),
    (dict[Color, int], {"x": 1}, "x"),
    (Literal["a", "b"], "c", "'c' is not one of 'a', 'b'"), (Literal[1], True, "True is not one of 1"),
    (Literal[1], 1.0, "1.0"), (Literal["1"], 1, "1"), (Literal[Color.RED], Color.BLUE, "blue"),
    (Literal["a"], ["a"], "a"),
    (dict[int, str], {"x": "a"}, "'x'.*int"), (dict[int, str], {1: 2}, "str"), (dict[int, str], {True: "a"}, "True"),
    (dict[int, str], {1.5: "a"}, "1.5"), (dict[int, str], [1], "mapping"), (dict[int, int], {"01": 1}, "01"),
    (ipaddress.IPv4Address, "1.2.3", "IPv4Address"), (ipaddress.IPv4Address, 1, "text|IPv4Address"),
    (ipaddress.IPv4Network, "10.0.0.1/8", "IPv4Network"), (Path, 1, "text"),
    (Point, [1], "2 items|3 items|list"), (Point, Point("x", WHEN), "int"),  # type: ignore[arg-type]
    (Point, Point(1, WHEN.replace(tzinfo=None)), "zone"),  # type: ignore[arg-type]
    # what would come back as another type
    (datetime | str, WHEN, "come back as.*str"), (Holds, Holds(mixed=WHEN), r"\$\.mixed"),
    (dict[str, object], {"at": WHEN}, r"\$\.at.*datetime"), (object, (1, 2), "tuple"),
    (dict[str, Any], {"at": WHEN}, r"\$\.at.*datetime"), (dict, {"at": WHEN}, "datetime"),
    (list, [UUID(int=1)], "UUID"),
    (list[Any], [Decimal(1)], "Decimal"), (Any, {"a": (1, 2)}, r"\$\.a.*tuple"),
    (dict, {"a": [(1,)]}, r"\$\.a\[0\].*tuple"),
    (Any, {"c": Color.RED}, "Color"), (dict[str, Any], {"c": Rank.ONE}, "Rank"),
    (dict[str, Any], {"b": b"x"}, "bytes"),
    (Holds, Holds(it=Base("a")), "Base"), (Holds, Holds(some={"x": Path("a")}), "Path|Posix"),
    (Any, {"s": {1}}, "set"),
    (Base, More("a", 1), "More.*Base"), (Base, Same("a"), "Same"), (Uncompared, UncomparedMore("a"), "Uncompared"),
    (Holds, Holds(base=More("a", 1)), r"\$\.base.*More"), (list[Base], [More("a", 2)], r"\$\[0\]"),
    (date, WHEN, "datetime"), (Holds, Holds(day=WHEN), r"\$\.day.*datetime"), (date | None, WHEN, "datetime"),
    (str, Color.RED, "Color"), (int, Level.LOW, "Level"), (dict[str, int], {Color.RED: 1}, "red|Color"),
    (list[int], (1, 2), "tuple"), (Holds, Holds(numbers=(1,)), r"\$\.numbers.*tuple"),  # type: ignore[arg-type]
    (timedelta, timedelta(days=200_000_000, microseconds=1), "timedelta"), (Path, PureWindowsPath("a"), "Windows"),
    (tuple[int, int], Pair(1, 2), "Pair"), (Any, Pair(1, 2), "Pair"), (dict[str, Any], {"p": Pair(1, 2)}, "Pair"),
    (list[str], "abc", "abc"), (Holds, Holds(numbers="12"), "numbers"), (list[str], {"a": 1}, "come back|a"),  # type: ignore[arg-type]
    (set[str], "ab", "ab"), (list[int], b"ab", "ab"), (list[int], {1, 2}, "set"),
    (dict[str, int], [], "mapping|list|dict"),
    (list[int], range(2), "range"), (Holds, Holds(it=object()), "object"), (Decimal, 1.5, "1.5"), (UUID, 5, "5"),
    (timedelta, "1h", "float"), (bytes, "zzz\x00", "."), (time, WHEN, "datetime"),
    (datetime, date(2030, 1, 1), "date"),
    (dict[Any, int], {1: 2}, "key"), (dict[int | str, int], {1: 2}, "come back|key"),
]  # fmt: skip


async def test_it_is_refused_at_the_enqueue(app: Aether) -> None:
    assert await not_refused(app, BAD) == []


JSON_FORMS: list[tuple[Any, Any, Any]] = [
    (Color, "red", Color.RED), (Level, 2, Level.HIGH), (dict[int, str], {"1": "a"}, {1: "a"}),
    (Point, [1, WHEN.isoformat()], Point(1, WHEN)), (Base, {"name": "a"}, Base("a")), (set[int], [1], {1}),
    (Order, {"at": WHEN.isoformat(), "day": "2030-01-02", "lines": [{"name": "a"}], "cache": {"1": "x"}},
     Order(WHEN, date(2030, 1, 2), [Base("a")], cache={1: "x"})),
    (Path, "a/b", Path("a/b")), (ipaddress.IPv4Address, "10.0.0.1", ipaddress.ip_address("10.0.0.1")),
    (dict[str, Base], {"x": {"name": "a"}}, {"x": Base("a")}), (Options, {"color": "red", "at": WHEN.isoformat()},
     {"color": Color.RED, "at": WHEN}), (float, 3, 3.0),
]  # fmt: skip


async def test_the_json_form_is_taken(app: Aether) -> None:
    came = await all_through(app, [(kind, payload) for kind, payload, _ in JSON_FORMS])
    assert came == [back for _, _, back in JSON_FORMS]


async def test_subclass_of_text_counts_as_the_equal_text(app: Aether) -> None:
    back = await through(app, Holds, Holds(text=Exact("a")))
    assert (type(back.text), back.text) == (str, "a")


# -- the user's own types --------------------------------------------------------------------------


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __str__(self) -> str:
        return f"{self.cents / 100:.2f}"

    @classmethod
    def parse(cls, text: str) -> Money:
        return cls(round(float(text) * 100))


@attrs.define
class Invoice:
    total: Money
    parts: list[Money]
    by_name: dict[str, Money | None]


class Day(date): ...


async def test_a_type_of_ones_own_anywhere_in_a_payload(app: Aether) -> None:
    app.payload_type(Money, str, Money.parse)
    back = await through(app, Invoice, Invoice(Money(150), [Money(1)], {"a": Money(2), "b": None}))
    assert (back.total.cents, back.parts[0].cents, back.by_name["a"].cents) == (150, 1, 2)


@pytest.mark.parametrize("kind", [Money, Day, Base, Color, Text, list[Money]], ids=str)
async def test_its_conversion_counts_before_any_other(app: Aether, kind: Any) -> None:
    values: dict[Any, Any] = {Money: Money(5), Day: Day(2030, 1, 2), Base: Base("a"), Color: Color.RED, Text: Text("t")}
    payload = values.get(kind, [Money(5)])
    app.payload_type(kind, lambda value: {"own": 1}, lambda stored: (stored["own"], payload)[1])
    assert await through(app, kind, payload) is payload


async def test_it_counts_for_handlers_and_clients_that_were_there_before(app: Aether) -> None:
    @app.handler("Pay")
    async def pay(args: Money) -> None: ...

    async with app.client() as jobs:
        with pytest.raises(InvalidHandler, match=r"'Pay'.*Money.*payload_type"):
            await jobs.enqueue(pay, payload=Money(1))
    app.payload_type(Money, str, Money.parse)
    async with app.client() as jobs:
        job = await jobs.store.get(await jobs.enqueue(pay, payload=Money(1)))
        other = await jobs.store.get(await jobs.enqueue(JobType("Pay", Money), payload=Money(2)))
    assert job is not None
    assert other is not None
    assert (job.payload, other.payload) == ("0.01", "0.02")


@pytest.mark.parametrize(
    ("encode", "decode", "said"),
    [
        (lambda value: value, Money.parse, "not JSON"), (lambda value: 1 / 0, Money.parse, "Money|Zero"),
        (str, lambda stored: 1 / 0, "ZeroDivision|division"), (str, lambda stored: stored, "come back as"),
    ],
)  # fmt: skip
async def test_a_conversion_that_fails_is_an_invalid_payload(
    app: Aether, encode: Callable[..., Any], decode: Callable[..., Any], said: str
) -> None:
    app.payload_type(Money, encode, decode)
    with pytest.raises(InvalidPayload, match=said):
        await through(app, Money, Money(5))


async def test_what_payload_type_refuses(app: Aether) -> None:
    app.payload_type(Money, str, Money.parse)
    for arguments, said in (
        ((Money, str, Money.parse), "Money.*already"), ((Day, "str", Day), "encode must be a function, got 'str'"),
        ((Day, str, None), "decode must be a function, got None"), ((dict, str, str), "dict.*JSON has that type"),
    ):  # fmt: skip
        with pytest.raises(InvalidOption, match=said):
            app.payload_type(*arguments)  # type: ignore[arg-type]
    async with app:
        with pytest.raises(AlreadyStarted, match="payload_type"):
            app.payload_type(Day, str, Day.fromisoformat)


async def test_a_type_that_cannot_be_read_is_named_at_the_start(app: Aether) -> None:
    @app.handler("Pay")
    async def pay(args: Invoice) -> None: ...

    with pytest.raises(InvalidHandler, match=r"'Pay'.*Invoice.*Money.*payload_type"):
        async with app:
            raise AssertionError("it must not start")
