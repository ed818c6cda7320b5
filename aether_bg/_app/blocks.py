"""Blocks that say what to write when they are used wrongly: `with` instead of `async with`, or no block at all."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Never, TypeVar

from aether_bg.errors import UsageError

T = TypeVar("T")

VERBS: Final = frozenset(
    {"enqueue", "enqueue_many", "wait", "explain", "update", "delete", "retry", "trigger", "pause", "resume", "drain",
     "health", "store", "unit_of_work", "execute"}
)  # fmt: skip


def misused(what: str, rule: str, remedy: str) -> Never:
    raise UsageError(what, rule, remedy)


class AsyncBlock(AbstractAsyncContextManager[T]):
    """`async with` only. `what`: how it was called; `remedy`: what to write instead."""

    def __init__(self, block: AbstractAsyncContextManager[T], what: str, remedy: str) -> None:
        self._block, self._what, self._remedy = block, what, remedy

    async def __aenter__(self) -> T:
        return await self._block.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._block.__aexit__(kind, error, trace)

    if not TYPE_CHECKING:  # for a type checker they are not there

        def __enter__(self) -> Never:
            misused(f"with {self._what}", "it is for async code", self._remedy)

        def __exit__(self, *_: object) -> None: ...

        def __await__(self) -> Never:
            misused(f"await {self._what}", "it is a block, not a call", self._remedy)

        def __getattr__(self, name: str) -> Any:
            return _outside(self._what, name, self._remedy)


class PlainBlock(AbstractContextManager[T]):
    """`with` only."""

    def __init__(self, block: AbstractContextManager[T], what: str, remedy: str) -> None:
        self._block, self._what, self._remedy = block, what, remedy

    def __enter__(self) -> T:
        return self._block.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._block.__exit__(kind, error, trace)

    if not TYPE_CHECKING:

        async def __aenter__(self) -> Never:
            misused(f"async with {self._what}", "it is for code without async", self._remedy)

        async def __aexit__(self, *_: object) -> None: ...

        def __await__(self) -> Never:
            misused(f"await {self._what}", "it is a block, not a call", self._remedy)

        def __getattr__(self, name: str) -> Any:
            return _outside(self._what, name, self._remedy)


def _outside(what: str, name: str, remedy: str) -> Never:
    if name in VERBS:
        misused(f"{what}.{name}", "it is a block, and its verbs are inside of it", remedy)
    raise AttributeError(name)
