"""Blocks that say what to write when they are used wrongly: `with` instead of `async with`, or no block at all."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Never, TypeVar

from aether_bg.errors import UsageError

T = TypeVar("T")

VERBS: Final = frozenset(
    {"enqueue", "enqueue_many", "wait", "explain", "update", "delete", "retry", "trigger", "pause", "resume", "drain",
     "health", "store", "unit_of_work", "execute"}
)  # fmt: skip


def misused(what: str, rule: str, remedy: str) -> Never:
    raise UsageError(what, rule, remedy)


class _Block:
    """`what`: how it was called; `remedy`: what to write instead of a wrong use."""

    def __init__(self, block: Any, what: str, remedy: str) -> None:
        self._block, self._what, self._remedy = block, what, remedy

    if not TYPE_CHECKING:  # for a type checker they are not there

        def __await__(self) -> Never:
            misused(f"await {self._what}", "it is a block, not a call", self._remedy)

        def __getattr__(self, name: str) -> Any:
            if name in VERBS:
                misused(f"{self._what}.{name}", "it is a block, and its verbs are inside of it", self._remedy)
            raise AttributeError(name)


class AsyncBlock(_Block, AbstractAsyncContextManager[T]):
    """`async with` only."""

    async def __aenter__(self) -> T:
        entered: T = await self._block.__aenter__()
        return entered

    async def __aexit__(self, *error: Any) -> bool | None:
        ended: bool | None = await self._block.__aexit__(*error)
        return ended

    if not TYPE_CHECKING:

        def __enter__(self) -> Never:
            misused(f"with {self._what}", "it is for async code", self._remedy)

        def __exit__(self, *_: object) -> None: ...


class PlainBlock(_Block, AbstractContextManager[T]):
    """`with` only."""

    def __enter__(self) -> T:
        entered: T = self._block.__enter__()
        return entered

    def __exit__(self, *error: Any) -> bool | None:
        ended: bool | None = self._block.__exit__(*error)
        return ended

    if not TYPE_CHECKING:

        async def __aenter__(self) -> Never:
            misused(f"async with {self._what}", "it is for code without async", self._remedy)

        async def __aexit__(self, *_: object) -> None: ...
