"""Payloads and metadata made to hang, to exhaust memory, or to raise from within."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import attrs
import pytest

from aether_bg import Aether, InvalidMetadata, InvalidPayload

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]

AT_ONCE = 5.0
"""Seconds: what these cost without a limit has no end."""


@attrs.define
class Order:
    items: list[Any]
    note: str = ""


class Endless(Mapping[str, Any]):
    """A mapping whose iteration never ends."""

    def __getitem__(self, key: str) -> int:
        return 1

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        number = 0
        while True:
            yield f"key-{(number := number + 1)}"


class EndlessList(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        while True:
            yield 1


class Raises:
    def __init__(self, *methods: str) -> None:
        self.methods = methods


def hostile(base: type, *methods: str) -> Any:
    """An instance of a subclass of `base` whose `methods` raise."""

    def bad(self: Any, *args: Any) -> Any:
        raise RuntimeError("from within")

    cls = type(f"Hostile{base.__name__.title()}", (base,), dict.fromkeys(methods, bad))
    return cls.__new__(cls)


def shared(depth: int, make: Callable[[Any], Any]) -> Any:
    """A value of `depth` objects which, written out, has 2**depth."""
    value: Any = "x"
    for _ in range(depth):
        value = make(value)
    return value


class NoMapping(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise KeyError(key)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])


class OddItems(dict[str, Any]):
    def items(self) -> Any:
        return [1, 2, 3]


VALUES: dict[str, Callable[[], Any]] = {
    "shared lists": lambda: shared(60, lambda inner: [inner, inner]),
    "shared tuples": lambda: shared(60, lambda inner: (inner, inner)),
    "shared mappings": lambda: shared(60, lambda inner: {"a": inner, "b": inner}),
    "an endless mapping": Endless,
    "an endless list": lambda: EndlessList([1]),
    "a long key over a list": lambda: {"k" * 5_000_000: [0] * 100_000},
    "a long key over a bad leaf": lambda: {"k" * 5_000_000: [0] * 1000 + [object()]},
    "items raises": lambda: hostile(dict, "items"),
    "items gives no pairs": lambda: OddItems(a=1),
    "a missing key": NoMapping,
    "__iter__ raises": lambda: hostile(list, "__iter__"),
    "__repr__ raises": lambda: hostile(object, "__repr__", "__str__"),
    "a large int": lambda: 10**10_000,
}


@pytest.mark.parametrize("value", VALUES)
async def test_hostile_payloads_and_metadata_are_refused_at_once(make_app: Callable[..., Aether], value: str) -> None:
    app = make_app(max_payload=32_768)
    app.handler("Any")(lambda args: None)

    @app.handler("dict")
    async def dicts(args: dict[str, Any]) -> None: ...

    @app.handler("list")
    async def lists(args: list[Any]) -> None: ...

    @app.handler("Order")
    async def orders(args: Order) -> None: ...

    made = VALUES[value]()
    async with app:
        for kind in ("Any", "dict", "list", "Order", "nested"):
            payload, name = (Order([made]), "Order") if kind == "nested" else (made, kind)
            began = time.monotonic()
            with pytest.raises(InvalidPayload) as caught:
                await app.enqueue(name, payload=payload)
            assert time.monotonic() - began < AT_ONCE, kind
            assert len(str(caught.value)) < 1000, kind
        began = time.monotonic()
        for metadata in (made, {"a": made}):
            with pytest.raises(InvalidMetadata) as refused:
                await app.enqueue("Any", metadata=metadata)
            assert len(str(refused.value)) < 1000
        assert time.monotonic() - began < 2 * AT_ONCE
        assert await app.store.find() == []


@pytest.mark.parametrize("base", [str, int, float])
async def test_a_subclass_cannot_run_code_or_lie_about_its_value(app: Aether, base: type) -> None:
    """The stored value is the plain one, whatever the class makes of itself."""
    app.handler("Any")(lambda args: None)
    methods = ("__str__", "__int__", "__float__", "__repr__", "__index__", "__format__")
    value = hostile(base, *methods)
    async with app:
        job = await app.store.get(await app.enqueue("Any", payload=[value], schedule="@daily"))
        assert job is not None
        assert job.payload == [base()]


async def test_an_error_that_ends_the_program_is_not_swallowed(app: Aether) -> None:
    app.handler("Any")(lambda args: None)

    class Interrupted(dict[str, Any]):
        def items(self) -> Any:
            raise KeyboardInterrupt

    async with app:
        with suppress(KeyboardInterrupt):
            await app.enqueue("Any", payload=Interrupted(a=1))
            pytest.fail("it was swallowed")
