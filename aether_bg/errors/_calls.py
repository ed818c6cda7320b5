"""What is wrong with a call, a handler or a plugin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aether_bg.errors._base import AetherError, shown

if TYPE_CHECKING:
    from aether_bg.model.job import JobInfo

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


class JobFailed(JobError):
    """`result` of a job that FAILED or was CANCELLED. `last_error`: the job's, or None."""

    def __init__(self, last_error: str | None, value: str = "the job", rule: str = "", remedy: str = "") -> None:
        self.last_error = last_error
        super().__init__(value, rule or f"it failed: {last_error}", remedy)


class NoResult(JobError, LookupError):
    """The job has completed, and no result of it was kept."""


class NeverEnds(JobError):
    """`wait` on a recurring job without `repeats` or `until`, or `result` of one."""


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
