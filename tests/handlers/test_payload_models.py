"""Payloads that are models of pydantic or structs of msgspec: strict, and recognised without an import of ours."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import attrs
import pytest
from handlers.through import all_through, not_refused

from aether_bg import Aether

pydantic = pytest.importorskip("pydantic")
msgspec = pytest.importorskip("msgspec")
pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.any_store]
WHEN = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


class Color(StrEnum):
    RED = "red"


class Line(pydantic.BaseModel):
    text: str
    count: int = 1


class Order(pydantic.BaseModel):
    id: UUID
    at: datetime
    lines: list[Line] = pydantic.Field(default_factory=list)
    color: Color = Color.RED
    by_number: dict[int, date] = pydantic.Field(default_factory=dict)
    price: float = 0.0
    of: Annotated[str, pydantic.Field(alias="Of")] = "x"


class MoreLine(Line):
    extra: int = 0


class Loose(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    a: int


class ByName(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True)
    inner: Annotated[Line, pydantic.Field(alias="Inner")]


class Secret(pydantic.BaseModel):
    word: pydantic.SecretStr


class Partly(pydantic.BaseModel):
    kept: int
    left: Annotated[int, pydantic.Field(exclude=True)] = 0


class Positive(pydantic.BaseModel):
    n: Annotated[int, pydantic.Field(gt=0)]


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"
    lives: int = 1


class Numbers(pydantic.RootModel[list[int]]): ...


@pydantic.dataclasses.dataclass
class Checked:
    n: Annotated[int, pydantic.Field(gt=0)]
    at: datetime


class Item(msgspec.Struct):
    text: str
    count: int = 1


class Parcel(msgspec.Struct, rename="camel", omit_defaults=True, tag="parcel"):
    sent_at: datetime
    items: list[Item] = msgspec.field(default_factory=list)
    by_number: dict[int, Color] = msgspec.field(default_factory=dict)
    weight: float = 0.0


class MoreItem(Item):
    extra: int = 0


class Row(msgspec.Struct, array_like=True):
    a: int
    item: Item


@attrs.define
class Holds:
    line: Line
    items: list[Item]
    by_id: dict[UUID, Line | None] = attrs.field(factory=dict)


class Around(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    checked: Checked


ORDER = Order(
    id=UUID(int=1), at=WHEN, lines=[Line(text="a")], color=Color.RED, by_number={1: date(2030, 1, 2)}, price=3, Of="y"
)
PARCEL = Parcel(WHEN, [Item("a", 2)], {1: Color.RED}, 1.5)

GOOD: list[tuple[Any, Any]] = [
    (Order, ORDER), (list[Line], [Line(text="a")]), (Line | None, None), (dict[int, Line], {1: Line(text="a")}),
    (Loose, Loose(a=1, b=[1])), (ByName, ByName(inner=Line(text="a"))), (Numbers, Numbers([1, 2])),
    (Cat | Dog, Dog()), (list[Cat | Dog], [Dog(), Cat()]), (Checked, Checked(1, WHEN)),
    (MoreLine, MoreLine(text="a")),
    (Around, Around(checked=Checked(2, WHEN))),
    (Parcel, PARCEL), (Parcel, Parcel(WHEN)), (list[Item], [Item("a")]), (Item | None, Item("a")),
    (Row, Row(1, Item("b"))),
    (MoreItem, MoreItem("a", extra=3)), (dict[str, Row], {"x": Row(1, Item("b"))}),
    (Holds, Holds(Line(text="a"), [Item("b")], {UUID(int=1): Line(text="c"), UUID(int=2): None})),
]  # fmt: skip


async def test_it_comes_back_as_it_was(app: Aether) -> None:
    came = await all_through(app, GOOD)
    assert [(type(back), back) for back in came] == [(type(payload), payload) for _, payload in GOOD]


FORMS: list[tuple[Any, Any, Any]] = [
    (Order, {"id": str(UUID(int=1)), "at": "2030-01-02T03:04:05Z", "lines": [{"text": "a"}], "color": "red",
             "by_number": {"1": "2030-01-02"}, "price": 3, "Of": "y"}, ORDER),
    (ByName, {"inner": {"text": "a"}}, ByName(inner=Line(text="a"))), (Loose, {"a": 1, "b": 2}, Loose(a=1, b=2)),
    (ByName, {"Inner": {"text": "a"}}, ByName(inner=Line(text="a"))), (Numbers, [1], Numbers([1])),
    (Parcel, {"type": "parcel", "sentAt": "2030-01-02T03:04:05Z", "items": [{"text": "a", "count": 2}],
              "byNumber": {"1": "red"}, "weight": 1.5}, PARCEL),
    (Parcel, {"type": "parcel", "sentAt": "2030-01-02T03:04:05Z", "items": [], "weight": 0.0}, Parcel(WHEN)),
    (Row, [1, {"text": "b"}], Row(1, Item("b"))),
    (Checked, {"n": 1, "at": "2030-01-02T03:04:05+00:00"}, Checked(1, WHEN)),
]  # fmt: skip


async def test_the_json_form_is_taken(app: Aether) -> None:
    came = await all_through(app, [(kind, payload) for kind, payload, _ in FORMS])
    assert came == [back for _, _, back in FORMS]


BAD: list[tuple[Any, Any, str]] = [
    (Line, {"text": 1}, r"\$\.text"), (Line, {"text": "a", "count": "1"}, r"\$\.count.*integer"), (Line, {}, "text"),
    (Line, {"text": "a", "count": True}, "count"), (Line, {"text": "a", "count": 1.0}, "count"),
    (Line, {"text": "a", "colour": 1}, "'colour' is not a field"), (Order, {"id": "x", "at": "y"}, r"\$\.id"),
    (Order, ORDER.model_dump(mode="json", by_alias=True) | {"lines": [{"text": "a", "x": 1}]}, r"\$\.lines\[0\].*'x'"),
    (Line, MoreLine(text="a", extra=1), "MoreLine.*Line"), (Line, Item("a"), "wants Line, not Item"),
    (Holds, Holds(MoreLine(text="a"), []), r"\$\.line.*MoreLine"), (Secret, Secret(word="pw"), "SecretStr"),
    (Partly, Partly(kept=1, left=2), r"\$\.left"), (Positive, {"n": 0}, "greater than 0"),
    (Positive, Positive.model_construct(n=-1), "greater than 0"), (Line, Line.model_construct(text=5), "text"),
    (Loose, Loose(a=1, at=WHEN), "datetime"), (Checked, {"n": 0, "at": "2030-01-02T03:04:05Z"}, "greater than 0"),
    (Numbers, ["a"], r"\$\[0\]"), (Cat | Dog, {"kind": "cow"}, "Cat.*Dog"),
    (list[Line], [{"text": 1}], r"\$\[0\]\.text"),
    (Holds, {"line": {"text": 1}, "items": []}, r"\$\.line\.text"),
    (Item, {"text": 1}, r"\$\.text.*str"), (Item, {"text": "a", "count": "1"}, r"\$\.count"), (Item, {}, "text"),
    (Item, {"text": "a", "count": 1.5}, "count"), (Item, {"text": "a", "x": 1}, "'x' is not a field"),
    (Item, MoreItem("a", extra=1), "MoreItem|extra"), (Item, Line(text="a"), "wants Item, not Line"),
    (Item, Item(text=5), r"\$\.text"), (Parcel, {"sentAt": 1}, "sentAt"),
    (Row, [1, {"text": "b"}, 3], "3 items, of at most 2"),
    (Parcel, {"type": "parcel", "sentAt": "2030-01-02T03:04:05Z", "items": [{"text": "a", "y": 1}]},
     r"\$\.items\[0\].*'y'"),
    (Holds, {"line": {"text": "a"}, "items": [{"text": 1}]}, r"\$\.items\[0\]\.text"),
    (dict[str, Any], {"m": Line(text="a")}, "Line"), (Any, {"m": Item("a")}, "Item"),
]  # fmt: skip


async def test_it_is_refused_at_the_enqueue(app: Aether) -> None:
    assert await not_refused(app, BAD) == []


def test_neither_library_is_imported() -> None:
    code = (
        "import sys, attrs; from aether_bg import Aether\n"
        "@attrs.define\nclass Mail:\n    to: str\n"
        "app = Aether(':memory:', scheduler='timer')\n"
        "@app.handler('Mail')\nasync def mail(args: Mail): ...\n"
        "with app.blocking() as jobs: jobs.wait(jobs.enqueue(mail, payload=Mail('a')))\n"
        "assert not {'pydantic', 'msgspec'} & set(sys.modules), 'imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
