"""Every error that a user can cause, as one tree. Each message says what must hold, what was given and what to do.

AetherError
├── InputError (ValueError)        an argument breaks a rule; nothing was changed
│   ├── InvalidName, InvalidPayload, InvalidMetadata, InvalidSchedule, InvalidOption
│   └── UnknownHandler
├── JobError                       the job's state does not allow what was asked
│   ├── JobNotFound (LookupError), JobConflict, InvalidTransition
│   ├── JobFailed, NoResult (LookupError)
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
│   │   ├── StoreFull, StoreReadOnly, StoreGone, StoreBroken, StoreUnreachable, StoreDenied
│   │   ├── StoreUnsure            whether the write happened is unknown
│   │   └── StoreBusy
│   │       └── StoreContended
│   ├── StoreFolderMissing, StoreIsDirectory, NotADatabase
│   ├── SchemaMissing, SchemaTooNew, TablesTaken
│   ├── StoreRefused, DeniedSQL, UnitOfWorkTimeout (TimeoutError), Unsupported
│   └── Stale, NameHeld            what a store answers when a guard does not hold
└── SchedulerError
    └── SchedulerUnavailable, SchedulerMisconfigured
"""

from __future__ import annotations

from aether_bg.errors._base import AetherError
from aether_bg.errors._base import brief as brief
from aether_bg.errors._base import loggable as loggable
from aether_bg.errors._base import shown as shown
from aether_bg.errors._calls import (
    AlreadyStarted,
    DependencyFailed,
    DuplicateHandler,
    DuplicatePlugin,
    ForkedProcess,
    HandlerError,
    HookShape,
    IncompleteLayer,
    InputError,
    InsideUnitOfWork,
    InvalidHandler,
    InvalidMetadata,
    InvalidName,
    InvalidOption,
    InvalidPayload,
    InvalidSchedule,
    InvalidTransition,
    JobConflict,
    JobError,
    JobFailed,
    JobNotFound,
    LayerConflict,
    NeverEnds,
    NoResult,
    NotAnOwner,
    NotAPlugin,
    NotStarted,
    PluginError,
    TokenLost,
    UnitOfWorkClosed,
    UnknownHandler,
    UnknownHook,
    UnresolvedDependency,
    UsageError,
    WaitTimeout,
    WrongLoop,
)
from aether_bg.errors._layers import (
    DeniedSQL,
    NameHeld,
    NotADatabase,
    SchedulerError,
    SchedulerMisconfigured,
    SchedulerUnavailable,
    SchemaMissing,
    SchemaTooNew,
    Stale,
    StoreBroken,
    StoreBusy,
    StoreContended,
    StoreDenied,
    StoreError,
    StoreFolderMissing,
    StoreFull,
    StoreGone,
    StoreIsDirectory,
    StoreReadOnly,
    StoreRefused,
    StoreTrouble,
    StoreUnreachable,
    StoreUnsure,
    TablesTaken,
    UnitOfWorkTimeout,
    Unsupported,
)

__all__ = [
    "AetherError", "AlreadyStarted", "DeniedSQL", "DependencyFailed", "DuplicateHandler", "DuplicatePlugin",
    "ForkedProcess", "HandlerError", "HookShape", "IncompleteLayer", "InputError", "InsideUnitOfWork",
    "InvalidHandler", "InvalidMetadata", "InvalidName", "InvalidOption", "InvalidPayload", "InvalidSchedule",
    "InvalidTransition", "JobConflict", "JobError", "JobFailed", "JobNotFound", "LayerConflict", "NameHeld",
    "NeverEnds", "NoResult",
    "NotADatabase", "NotAPlugin", "NotAnOwner", "NotStarted", "PluginError", "SchedulerError",
    "SchedulerMisconfigured", "SchedulerUnavailable", "SchemaMissing", "SchemaTooNew", "Stale", "StoreBroken",
    "StoreBusy", "StoreContended", "StoreDenied", "StoreError", "StoreFolderMissing", "StoreFull", "StoreGone",
    "StoreIsDirectory", "StoreReadOnly", "StoreRefused", "StoreTrouble", "StoreUnreachable", "StoreUnsure",
    "TablesTaken", "TokenLost", "UnitOfWorkClosed", "UnitOfWorkTimeout", "UnknownHandler", "UnknownHook",
    "UnresolvedDependency", "Unsupported", "UsageError", "WaitTimeout", "WrongLoop",
]  # fmt: skip

for _name in __all__:  # tracebacks and pickles name the public module
    globals()[_name].__module__ = __name__
