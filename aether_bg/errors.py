"""Every error that a user can cause, as one tree. Each message says what must hold, what was given and what to do.

AetherError
├── InputError (ValueError)        an argument breaks a rule; nothing was changed
│   ├── InvalidName, InvalidPayload, InvalidMetadata, InvalidSchedule, InvalidOption
│   └── UnknownHandler
├── JobError                       the job's state does not allow what was asked
│   ├── JobNotFound (LookupError), JobConflict, InvalidTransition
│   ├── WaitTimeout (TimeoutError), NeverEnds
│   └── TokenLost                  of an attempt that no longer holds its job
├── UsageError (RuntimeError)      the call is right, but its time or place is not
│   ├── NotStarted, AlreadyStarted, NotAnOwner, ForkedProcess, WrongLoop
│   ├── InsideUnitOfWork, UnitOfWorkClosed
│   └── DependencyFailed            what `provide(scope="app")` makes could not be made
├── HandlerError (TypeError)       a handler that cannot be called as declared
│   └── InvalidHandler, DuplicateHandler, UnresolvedDependency
├── PluginError (TypeError)        a plugin that does not fit the hook specifications
│   └── UnknownHook, HookShape, LayerConflict, IncompleteLayer, DuplicatePlugin, NotAPlugin
├── StoreError                     the store cannot do it, now or ever
│   ├── StoreTrouble               nothing wrong with what was asked; it may be tried again
│   │   ├── StoreFull, StoreReadOnly, StoreGone, StoreBroken, StoreUnreachable
│   │   ├── StoreUnsure            whether the write happened is unknown
│   │   └── StoreBusy
│   │       └── StoreContended
│   ├── StoreFolderMissing, StoreIsDirectory, NotADatabase, StoreDenied
│   ├── SchemaMissing, SchemaTooNew, TablesTaken
│   ├── StoreRefused, DeniedSQL, UnitOfWorkTimeout (TimeoutError), Unsupported
│   └── Stale, NameHeld            what a store answers when a guard does not hold
└── SchedulerError
    └── SchedulerUnavailable, SchedulerMisconfigured
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from aether_bg.model.job import JobInfo

__all__ = [
    "AetherError",
    "AlreadyStarted",
    "DeniedSQL",
    "DependencyFailed",
    "DuplicateHandler",
    "DuplicatePlugin",
    "ForkedProcess",
    "HandlerError",
    "HookShape",
    "IncompleteLayer",
    "InputError",
    "InsideUnitOfWork",
    "InvalidHandler",
    "InvalidMetadata",
    "InvalidName",
    "InvalidOption",
    "InvalidPayload",
    "InvalidSchedule",
    "InvalidTransition",
    "JobConflict",
    "JobError",
    "JobNotFound",
    "LayerConflict",
    "NameHeld",
    "NeverEnds",
    "NotADatabase",
    "NotAPlugin",
    "NotAnOwner",
    "NotStarted",
    "PluginError",
    "SchedulerError",
    "SchedulerMisconfigured",
    "SchedulerUnavailable",
    "SchemaMissing",
    "SchemaTooNew",
    "Stale",
    "StoreBroken",
    "StoreBusy",
    "StoreContended",
    "StoreDenied",
    "StoreError",
    "StoreFolderMissing",
    "StoreFull",
    "StoreGone",
    "StoreIsDirectory",
    "StoreReadOnly",
    "StoreRefused",
    "StoreTrouble",
    "StoreUnreachable",
    "StoreUnsure",
    "TablesTaken",
    "TokenLost",
    "UnitOfWorkClosed",
    "UnitOfWorkTimeout",
    "UnknownHandler",
    "UnknownHook",
    "UnresolvedDependency",
    "Unsupported",
    "UsageError",
    "WaitTimeout",
    "WrongLoop",
]

_SHOWN = 120


def shown(value: object) -> str:
    """`repr` of a user's value, safe for a message: bounded, on one line, and never raising."""
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else _bounded.repr(value)
    except BaseException as error:  # a broken __repr__ must not hide the error that is being reported
        text = f"<{type(value).__name__}, whose repr raises {type(error).__name__}>"
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


class _Bounded(reprlib.Repr):
    """`repr` that looks into collections, attrs classes and dataclasses a few levels deep, at a few items each."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxlong, self.maxother = 4, _SHOWN, _SHOWN, _SHOWN
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdeque = 12

    def repr_str(self, x: str, level: int) -> str:
        return repr(x if len(x) <= _SHOWN else x[:_SHOWN])

    def repr_instance(self, x: Any, level: int) -> str:
        kind = type(x)
        fields = getattr(kind, "__attrs_attrs__", None) or getattr(kind, "__dataclass_fields__", {}).values()
        if not fields or "__repr__" not in vars(kind):
            return repr(x)
        if level <= 0:
            return f"{kind.__qualname__}(...)"
        parts = [f"{f.name}={self.repr1(getattr(x, f.name, None), level - 1)}" for f in list(fields)[:12] if f.repr]
        return f"{kind.__qualname__}({', '.join(parts)})"


_bounded = _Bounded()


def brief(error: BaseException) -> str:
    """Type and message of an error, whatever its `__str__` does."""
    kind: str = type.__dict__["__name__"].__get__(type(error))  # whatever its metaclass does
    try:
        return f"{kind}: {error}"
    except BaseException:  # a user's __str__ may raise anything, SystemExit included
        return f"{kind} (message unavailable)"


def loggable(error: BaseException | None) -> BaseException | None:
    """For `exc_info`. None where a property of the user's class raises: it would raise in the handlers of the log."""
    import traceback

    try:
        traceback.format_exception(error)
    except BaseException:
        return None
    return error


class AetherError(Exception):
    """Base of the tree. `value`: what was given, or what the error is about; `rule`: what must hold, or what does not;
    `remedy`: what to do; `name`: of the argument that was given, or empty.

    The message is `name rule, got value. remedy` for an argument, and `value: rule. remedy` for anything else.
    """

    def __init__(self, value: str, rule: str, remedy: str = "", *, name: str = "") -> None:
        self.value, self.rule, self.remedy, self.name = value, rule, remedy, name
        said = f"{name} {rule}, got {value}" if name else f"{value}: {rule}"
        super().__init__(f"{said.rstrip('.')}. {remedy}".rstrip())

    def at(self, where: str) -> Self:
        """The same error, whose message begins with where it arose."""
        self.args = (f"{where}: {self.args[0]}", *self.args[1:])
        return self

    def __reduce__(self) -> Any:
        """Errors cross processes as they are, whatever their class is made from."""
        return _restored, (type(self), self.args, vars(self))


def _restored(kind: type[AetherError], args: tuple[Any, ...], state: dict[str, Any]) -> AetherError:
    error = kind.__new__(kind)
    error.args = args
    vars(error).update(state)
    return error


# -- input ---------------------------------------------------------------------------------------


class InputError(AetherError, ValueError):
    """An argument breaks a rule. Raised at the call; nothing was changed."""


class InvalidName(InputError):
    """A job or handler name is empty, too long, or contains a character that some layer cannot carry."""


class _AtPath(InputError):
    def __init__(self, value: str, rule: str, remedy: str = "", *, path: str = "$") -> None:
        self.path = path
        super().__init__(f"{value} at {shown(path)[1:-1]}", rule, remedy)


class InvalidPayload(_AtPath):
    """A payload does not fit its handler's type, or is not JSON within the limits. `path`: where (`$.field[0]`)."""


class InvalidMetadata(_AtPath):
    """Metadata must be JSON with string keys, at most 64 keys and 8 KiB. `path`: where."""


class InvalidSchedule(InputError):
    """A schedule outside the language of `aether_bg.schedule`.

    `text`: as given; `field`: the part at fault, None for the whole; `reason`: the rule; `example`: one that works.
    """

    def __init__(self, text: object, *, field: str | None, reason: str, example: str) -> None:
        self.text, self.field, self.reason, self.example = text, field, reason, example
        where = f"schedule {shown(text)}" + (f", {field}" if field else "")
        super().__init__(where, reason, f"For example: {example}")


class InvalidOption(InputError):
    """A setting or argument has a wrong type or lies outside its range, or its name is unknown."""


class UnknownHandler(InputError):
    """No handler of that name (or function) is registered in this process."""


# -- jobs ----------------------------------------------------------------------------------------


class JobError(AetherError):
    """The state of the job does not allow what was asked."""


class JobNotFound(JobError, LookupError):
    """No job has that id or name."""


class JobConflict(JobError):
    """The name is held by another job, or declared twice. `existing`: the holder; `differences`: the arguments that
    differ."""

    def __init__(
        self,
        value: str,
        rule: str,
        remedy: str = "",
        *,
        existing: JobInfo | None = None,
        differences: Sequence[str] = (),
    ) -> None:
        self.existing, self.differences = existing, tuple(differences)
        super().__init__(value, rule, remedy)


class InvalidTransition(JobError):
    """The job's status does not allow this verb (docs/protocol.md, U)."""


class WaitTimeout(JobError, TimeoutError):
    """The job did not end in time. It continues."""


class TokenLost(JobError):
    """An attempt no longer holds its job: it has ended, the job was deleted, or another process has taken it over."""


class NeverEnds(JobError):
    """`wait` on a recurring job without `repeats` or `until`."""


# -- usage ---------------------------------------------------------------------------------------


class UsageError(AetherError, RuntimeError):
    """The call is right, but its time or place is not."""


class NotStarted(UsageError):
    """The app is not running: the call belongs inside `async with app`, `app.blocking()` or `app.client()`."""


class AlreadyStarted(UsageError):
    """The app is running. Handlers, dependencies and declarations must come before the start."""


class NotAnOwner(UsageError):
    """A client enqueues and queries; it never runs jobs."""


class ForkedProcess(UsageError):
    """This process was forked after the start; an open database must not cross a fork (docs/protocol.md, P2)."""


class WrongLoop(UsageError):
    """A verb was called from another event loop or thread; `app.sync` serves those (docs/protocol.md, W12)."""


class InsideUnitOfWork(UsageError):
    """Only `enqueue` can join a unit of work; this verb belongs before or after it (docs/protocol.md, W6)."""


class DependencyFailed(UsageError):
    """A dependency with scope="app" could not be made, so the app has not started. `__cause__`: what its factory
    raised."""


class UnitOfWorkClosed(UsageError):
    """The unit of work has ended; nothing more can be added to it."""


# -- handlers ------------------------------------------------------------------------------------


class HandlerError(AetherError, TypeError):
    """A handler that cannot be called as it is declared."""


class InvalidHandler(HandlerError):
    """Its signature or payload type cannot be compiled."""


class DuplicateHandler(HandlerError):
    """Two handlers have one name."""


class UnresolvedDependency(HandlerError):
    """A parameter's type is neither provided nor known to the framework."""


# -- plugins -------------------------------------------------------------------------------------


class PluginError(AetherError, TypeError):
    """A plugin does not fit the hook specifications. The message names plugin, hook and remedy."""


class UnknownHook(PluginError):
    """A method is marked `@hookimpl` but no hook has its name."""


class HookShape(PluginError):
    """An implementation has the wrong kind (async or not) or the wrong parameters."""


class LayerConflict(PluginError):
    """Two plugins own the same layer."""


class IncompleteLayer(PluginError):
    """A plugin owns some hooks of a layer but not all of them."""


class DuplicatePlugin(PluginError):
    """The same (or an equal) plugin was given twice."""


class NotAPlugin(PluginError):
    """The object has no hook implementation, or is a class instead of an instance."""


# -- stores and schedulers -----------------------------------------------------------------------


class StoreError(AetherError):
    """The store cannot carry out the operation; what it was part of has been rolled back."""


class StoreTrouble(StoreError):
    """The store itself is in trouble; nothing is wrong with what was asked, and it may be tried again."""


class StoreBusy(StoreTrouble):
    """Another process held the database past the deadline."""


class StoreContended(StoreBusy):
    """Someone else holds a row that one of several writes needs. Each write can be tried by itself."""


class StoreUnsure(StoreTrouble):
    """The answer to a write was lost: whether it happened is unknown. Repeat the same write: an `Insert` of an equal
    row counts as done, and an `Update` whose `next_seq` and `modified_at` the row shows was recorded."""


class StoreFull(StoreTrouble):
    """No space is left for the database."""


class StoreReadOnly(StoreTrouble):
    """The database or its folder cannot be written."""


class StoreGone(StoreTrouble):
    """The database file was removed or replaced while it was open."""


class StoreBroken(StoreTrouble):
    """An input/output error, or a damaged database."""


class StoreUnreachable(StoreTrouble):
    """The store's server does not answer."""


class StoreDenied(StoreError):
    """The store's server refuses this user, or what it wants to do."""


class SchemaMissing(StoreError):
    """The store's server lacks tables of this version of aether_bg, and this process may not make them."""


class StoreFolderMissing(StoreError):
    """The folder of the database does not exist."""


class StoreIsDirectory(StoreError):
    """The path of the database is a folder, a link or a special file."""


class NotADatabase(StoreError):
    """The file exists and is not a SQLite database."""


class SchemaTooNew(StoreError):
    """The database was written by a newer version of aether_bg."""


class TablesTaken(StoreError):
    """The file has tables named like those of aether_bg that something else created."""


class StoreRefused(StoreError):
    """A constraint of the schema refused a write of the kernel's."""


class DeniedSQL(StoreError):
    """A unit of work may not end or escape its transaction, nor change our tables (docs/protocol.md, W7 and W11)."""


class UnitOfWorkTimeout(StoreError, TimeoutError):
    """A unit of work, or one statement of it, held the database for too long. Nothing of it has happened."""


class Unsupported(StoreError):
    """This store cannot do it: it has no SQL to run, or no connection but its own reaches it."""


class Stale(StoreError):
    """An `Update` or a `Note` presented a seq or schedule_rev that is no longer current. `job_id`: of which job;
    `current`: the row now, None if gone."""

    def __init__(self, job_id: object, current: JobInfo | None) -> None:
        self.job_id, self.current = job_id, current
        super().__init__(f"job {job_id}", "its row has changed since it was read", "Read it again, and decide again.")


class NameHeld(StoreError):
    """An `Insert` (or an `Update` that takes a name back) found the name held. `current`: the holder."""

    def __init__(self, name: str, current: JobInfo) -> None:
        self.current = current
        super().__init__(f"job name {shown(name)}", "another job holds it", "Read that job, and decide again.")


class SchedulerError(AetherError):
    """The scheduling layer cannot work as configured."""


class SchedulerUnavailable(SchedulerError):
    """The engine (for instance a Dapr sidecar) does not answer."""


class SchedulerMisconfigured(SchedulerError):
    """The engine answers, but not in the way the plugin needs."""
