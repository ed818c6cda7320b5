"""`NewJob`: the arguments of one enqueue, as a value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, TypeVar, Unpack, overload

from aether_bg._app.admission import ARGUMENTS
from aether_bg._rules import validation as checks
from aether_bg.errors import shown

if TYPE_CHECKING:
    from aether_bg._app.argument_types import EnqueueOptions, Handles, When
    from aether_bg.model import JobType

T = TypeVar("T")


class NewJob:
    """One job for `enqueue_many`: `enqueue`'s arguments, under the same names. `enqueue_many` checks them.

    Raises `InvalidOption` for an argument that `enqueue` does not have.
    """

    __slots__ = ("arguments",)

    @overload
    def __init__(
        self, handler: type[Handles[T]], job_name: str | None = None, payload: T | Mapping[str, Any] | None = None,
        schedule: When = "@once", metadata: Mapping[str, Any] | None = None, **options: Unpack[EnqueueOptions],
    ) -> None: ...  # fmt: skip
    @overload
    def __init__(
        self, handler: str | JobType[T] | Callable[Concatenate[T, ...], Any], job_name: str | None = None,
        payload: T | Mapping[str, Any] | None = None, schedule: When = "@once",
        metadata: Mapping[str, Any] | None = None, **options: Unpack[EnqueueOptions],
    ) -> None: ...  # fmt: skip
    @overload
    def __init__(
        self, handler: Callable[..., Any], job_name: str | None = None, payload: None = None, schedule: When = "@once",
        metadata: Mapping[str, Any] | None = None, **options: Unpack[EnqueueOptions],
    ) -> None: ...  # fmt: skip
    def __init__(
        self, handler: Any, job_name: str | None = None, payload: Any = None, schedule: When = "@once",
        metadata: Mapping[str, Any] | None = None, **options: Any,
    ) -> None:  # fmt: skip
        arguments = {"handler": handler, "job_name": job_name, "payload": payload, "schedule": schedule}
        self.arguments = checked(arguments | {"metadata": metadata} | options)

    def __repr__(self) -> str:
        given = (f"{name}={shown(value)}" for name, value in self.arguments.items() if value not in (None, "@once"))
        return f"NewJob({', '.join(given)})"


def checked(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same, if `enqueue` has all of them. Raises `InvalidOption`."""
    if unknown := arguments.keys() - _KNOWN:
        checks.unknown_options({str(name): arguments[name] for name in unknown}, ARGUMENTS)
    return arguments


_KNOWN = frozenset(("handler", *ARGUMENTS))
