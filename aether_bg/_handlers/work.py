"""The unit of work: writes that are carried out in one transaction, all or nothing (docs/protocol.md, W4 to W6)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from aether_bg._rules.recurrence import check_comes
from aether_bg.errors import InsideUnitOfWork, InvalidOption, NotStarted, UnitOfWorkClosed, shown
from aether_bg.model import Call, Insert, JobInfo, Transaction, Write

R = TypeVar("R")
_UNSET: Any = object()

current: ContextVar[UnitOfWork | None] = ContextVar("aether_bg_unit_of_work", default=None)
"""The unit of the block that this context was made in, open or not: see `joined`."""

running: ContextVar[UUID | None] = ContextVar("aether_bg_running", default=None)
"""The job whose handler makes the call, if there is one."""


class WorkTransaction(Protocol):
    """What a function queued with `run` gets: the open transaction."""

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows. It must not begin, commit, attach or set pragmas (`DeniedSQL`)."""
        ...

    def enqueue(self, handler: Any, job_name: str | None = None, payload: Any = None, **options: Any) -> UUID:
        """Enqueue inside the transaction; arguments as in `Aether.enqueue`. Raises `JobConflict` for a held name."""
        ...


class Queued(Generic[R]):
    """The place of a queued step's result, filled by the commit."""

    _value: R = _UNSET

    @property
    def result(self) -> R:
        """The step's return value. Raises `NotStarted` before the commit."""
        if self._value is _UNSET:
            raise NotStarted("the result of a unit of work", "it is there after the commit", "Read it after the block.")
        return self._value

    def __repr__(self) -> str:
        return "<Queued, not committed>" if self._value is _UNSET else f"<Queued {self._value!r}>"


class UnitOfWork:
    """Collects writes while your code awaits, without holding a lock; then all of them happen at once, or none.

    Use `async with app.unit_of_work() as uow:`, or a handler parameter of this type. Its tables are in the jobs'
    database. `execute`, `run` and `app.enqueue` inside the block join it, from async code and from threads.
    """

    def __init__(self, enqueue: Callable[[Transaction, list[JobInfo]], Callable[..., UUID]], store_id: UUID) -> None:
        self._enqueue, self.store_id = enqueue, store_id
        self.outer = current.get()
        """The unit in whose block this one was made: of another app, on another store."""
        self._made: list[list[JobInfo]] = []
        """The jobs that each function enqueued when it last ran: after a refused transaction it runs again."""
        self._steps: list[tuple[Write, Queued[Any] | None]] = []
        self.named: dict[str, JobInfo] = {}
        """The jobs that `enqueue` has added, by name."""
        self.linked: dict[UUID, tuple[UUID, ...]] = {}
        """The parents of each of them."""
        self._closed = False

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> Queued[list[tuple[Any, ...]]]:
        """Queue one statement. Its rows are in `.result` after the commit."""
        queued = Queued[list[tuple[Any, ...]]]()
        self.queue(Call(lambda tx: tx.execute(sql, params), shown(sql)[:60]), queued)
        return queued

    def run(self, fn: Callable[[WorkTransaction], R]) -> Queued[R]:
        """Queue `fn(tx)`: it runs inside the transaction and may read, check and write. If it raises, nothing is
        written.

        It is a plain function and runs on the store's thread: keep it short, without I/O of its own.
        """
        called = fn if inspect.isroutine(fn) or isinstance(fn, partial) else getattr(type(fn), "__call__", None)  # noqa: B004
        kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
        if not callable(fn) or any(kind(called) for kind in kinds):
            raise InvalidOption(
                shown(fn), "must be a plain function, neither async nor a generator",
                "Await what it needs before, outside of the transaction.", name="the argument of uow.run()",
            )  # fmt: skip
        queued, made, job_id = Queued[R](), list[JobInfo](), running.get()
        self._made.append(made)

        def carry_out(tx: Transaction) -> R:
            made.clear()
            token = running.set(job_id)  # the store's thread lacks the handler's context
            try:
                result = fn(_Tx(tx, self._enqueue(tx, made)))
            finally:
                running.reset(token)
            for job in made:
                check_comes(job)  # the function may have caught what enqueue raised for it
            return result

        self.queue(Call(carry_out, f"run({getattr(fn, '__qualname__', type(fn).__name__)})"), queued)
        return queued

    def __repr__(self) -> str:
        return f"<UnitOfWork {len(self._steps)} steps{', closed' if self._closed else ''}>"

    # -- for the kernel --------------------------------------------------------------------------

    def queue(self, write: Write, queued: Queued[Any] | None = None) -> None:
        if self._closed:
            raise UnitOfWorkClosed("this unit of work", "it has ended", "Open another one.")
        self._steps.append((write, queued))
        if isinstance(write, Insert):
            self.named[write.job.job_name] = write.job
            self.linked[write.job.id] = write.after

    @property
    def is_open(self) -> bool:
        return not self._closed

    @property
    def writes(self) -> list[Write]:
        return [write for write, _ in self._steps]

    @property
    def jobs(self) -> list[JobInfo]:
        """The jobs that it has enqueued, after the commit."""
        joined = [write.job for write in self.writes if isinstance(write, Insert)]
        return joined + [job for made in self._made for job in made]

    def close(self) -> list[Write]:
        """Accepts no more steps; the queued ones stay."""
        self._closed = True
        return self.writes

    def fill(self, results: Sequence[object]) -> None:
        """The commit has happened."""
        for (_, queued), result in zip(self._steps, results, strict=True):
            if queued is not None:
                queued._value = result


class _Tx:
    def __init__(self, tx: Transaction, enqueue: Callable[..., UUID]) -> None:
        self._tx = tx
        self.enqueue = enqueue

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        return self._tx.execute(sql, params)


@contextmanager
def entered(unit: UnitOfWork) -> Iterator[UnitOfWork]:
    """The block of this unit, which joins what is enqueued in it. If it fails, nothing of it happens."""
    token = current.set(unit)
    try:
        yield unit
    except BaseException:
        unit.close()
        raise
    finally:
        current.reset(token)


def joined(store_id: UUID) -> UnitOfWork | None:
    """The unit that an `enqueue` on this store joins. A unit that has ended does not count, also for a task started
    inside its block (docs/protocol.md, W12); the unit of another app's store is passed over."""
    unit = current.get()
    while unit is not None and not (unit.is_open and unit.store_id == store_id):
        unit = unit.outer
    return unit


def outside(verb: str, store_id: UUID) -> None:
    """Raises `InsideUnitOfWork`: only `enqueue` can join a unit of work (docs/protocol.md, W6)."""
    if joined(store_id) is not None:
        raise InsideUnitOfWork(
            f"{verb} inside a unit of work", "only enqueue can join it", f"Call {verb} before or after the block."
        )


__all__ = ["Queued", "UnitOfWork", "WorkTransaction", "current", "entered", "joined", "outside", "running"]
