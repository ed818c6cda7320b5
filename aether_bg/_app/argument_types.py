"""The types of `enqueue`'s arguments, for type checkers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Concatenate, Literal, Protocol, TypedDict, TypeVar
from uuid import UUID

from aether_bg.model import JobInfo, JobType, Misfire

T_contra = TypeVar("T_contra", contravariant=True)
IfExists = Literal["raise", "keep", "replace"]
When = str | datetime | timedelta
After = UUID | str | JobInfo | Iterable[UUID | str | JobInfo]
Kind = str | JobType[Any] | Callable[..., Any]


class EnqueueOptions(TypedDict, total=False):
    """The keyword-only arguments of `enqueue`."""

    timezone: str | None
    start: datetime | None
    if_exists: IfExists
    repeats: int | None
    until: datetime | None
    misfire: Misfire
    misfire_grace: float
    jitter: float | timedelta
    priority: int | None
    unique_for: float | timedelta | None
    after: After | None
    after_any: bool
    connection: Any
    notify: bool


class Handles(Protocol[T_contra]):
    """A handler class whose `handle` takes such a payload."""

    @property
    def handle(self) -> Callable[Concatenate[T_contra, ...], Any]: ...
