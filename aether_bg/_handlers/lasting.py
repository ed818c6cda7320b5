"""Dependencies that last as long as the app: `provide(scope="app")`, made at the start and closed at the stop
(docs/protocol.md, S9)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

from aether_bg.errors import DependencyFailed, UnresolvedDependency, brief

Wants = Mapping[Any, Mapping[str, Any]]
"""For each type, what its factory's parameters request."""


class Lasting:
    """The types in the order of `provide`, and while the app runs their values."""

    def __init__(self) -> None:
        self._kinds: list[Any] = []
        self._values: dict[Any, Any] = {}

    def __contains__(self, kind: Any) -> bool:
        return kind in self._kinds

    def set(self, kind: Any, lasts: bool) -> None:
        self._kinds = [other for other in self._kinds if other != kind] + [kind] * lasts

    def value(self, kind: Any) -> Any:
        return self._values[kind]

    async def get(self, kind: Any) -> Any:
        return self._values[kind]

    def order(self, wants: Wants) -> list[Any]:
        """Sorts the types so that a factory's dependencies come before it. Raises `UnresolvedDependency`."""
        ordered: list[Any] = []

        def add(kind: Any, asking: tuple[Any, ...]) -> None:
            if kind in ordered:
                return
            if kind in asking:
                chain = " → ".join(map(_name, (*asking[asking.index(kind) :], kind)))
                raise UnresolvedDependency(
                    f"the factory of {_name(kind)}", f"it needs itself: {chain}", "Make one of them without the other."
                )
            for parameter, wanted in wants[kind].items():
                if wanted not in self:
                    raise UnresolvedDependency(
                        f"parameter {parameter!r} of the factory of {_name(kind)}",
                        f'{_name(kind)} lasts as long as the app, and {_name(wanted)} is made for each attempt',
                        f'Provide {_name(wanted)} with scope="app" as well, or {_name(kind)} without it.',
                    )  # fmt: skip
                add(wanted, (*asking, kind))
            ordered.append(kind)

        for kind in self._kinds:
            add(kind, ())
        return ordered

    async def open(self, wants: Wants, make: Callable[[Any], Awaitable[Any]], stack: AsyncExitStack) -> None:
        """Makes all of them; `stack` closes them in reverse. Raises `DependencyFailed`."""
        stack.callback(self._values.clear)
        for kind in self.order(wants):
            try:
                made = await make(kind)
                if isinstance(made, AbstractAsyncContextManager):
                    made = await stack.enter_async_context(made)
            except Exception as error:
                raise DependencyFailed(
                    f"the dependency {_name(kind)}", f"its factory failed: {brief(error)}",
                    "The app has not started. See the cause above.",
                ) from error  # fmt: skip
            self._values[kind] = made


def _name(kind: Any) -> str:
    return getattr(kind, "__qualname__", str(kind))
