"""Handlers: each signature is read and compiled once; nothing is inspected when a job runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import attrs

from aether_bg._handlers.dependencies import Dependencies, call
from aether_bg._handlers.payloads import PayloadType, check_json, name_of
from aether_bg._handlers.signatures import (
    Shape,
    shape_of,
)
from aether_bg._handlers.work import UnitOfWork
from aether_bg.errors import InvalidHandler, InvalidPayload, shown
from aether_bg.model import HandlerInfo, JobContext

if TYPE_CHECKING:
    from svcs import Container


Binder = Callable[[JobContext, Any, UnitOfWork | None, Mapping[str, Any]], partial[Any]]
"""Makes the call from the context, the stored payload, the unit of work and the injected values."""
_INSTANCE: Final = ""  # not the name of a parameter
NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@attrs.define(eq=False, kw_only=True)
class Handler:
    """One registered handler, compiled."""

    info: HandlerInfo
    call: Callable[..., Any]
    """The function; for a class, its `handle`."""
    takes_self: bool = False
    """Whether `call` is a method that still needs its instance."""
    payload: PayloadType | None
    payload_name: str | None
    default: Any = None
    """The type of the payload parameter."""
    optional: bool
    """Whether the payload parameter has a default."""
    returns: PayloadType | None = None
    """The type of its result, if results are kept."""
    told_of_result: bool = False
    parameters: Sequence[inspect.Parameter]
    hints: Mapping[str, Any]
    context_names: frozenset[str]
    work_names: frozenset[str]
    wanted: Mapping[str, Any] = NOTHING
    constructor: Mapping[str, Any] | None = None
    """What the constructor of a handler class needs; None for a function."""
    shape: Shape = attrs.field(factory=Shape)
    bind: Binder = attrs.field(default=None)
    """The call with all its arguments; made by `resolve`. Raises `InvalidPayload` if the payload no longer fits."""
    constructor_shape: Shape = attrs.field(factory=Shape)
    wants_more: bool = attrs.field(default=False)
    """Than its payload and context; found by `resolve`."""

    @property
    def wants_work(self) -> bool:
        return bool(self.work_names)

    @property
    def wants_scope(self) -> bool:
        return bool(self.wanted or self.constructor)

    def check(self, payload: Any, limit: int) -> Any:
        """The payload of an enqueue as checked JSON. Raises `InvalidPayload`, before anything is stored."""
        if self.payload is None:
            if payload is not None:
                raise InvalidPayload(
                    shown(payload),
                    f"handler {self.info.name!r} takes no payload",
                    "Give it a first parameter, typed (a wrapper: with functools.wraps).",
                )
            return None
        return check_typed(payload, self.payload, limit, optional=self.optional, handler=self.info.name)

    def resolve(self, dependencies: Dependencies) -> None:
        """Checks that what the handler requests by type is provided. Raises `UnresolvedDependency`, and
        `InvalidHandler` for a wrapper that does not take the arguments."""
        what = f"handler {self.info.name!r}"
        known = frozenset({self.payload_name, *self.context_names, *self.work_names})
        remedy = ""
        if self.payload_name is not None:
            remedy = f" A handler takes one payload, here {self.payload_name!r}: put several values into one class."
        self.wanted = dependencies.wanted_by(self.parameters, self.hints, what, known, remedy)
        passed = [p.name for p in self.parameters if p.name in known or p.name in self.wanted]
        self.shape = shape_of(
            self.call, self.parameters, passed, what, payload=self.payload_name, bound=self.takes_self
        )
        if inspect.isclass(self.info.target):
            make, whose = self.info.target, f"the constructor of {what}"
            self.constructor = dependencies.wanted_of(make, whose)
            self.constructor_shape = dependencies.shape(make, self.constructor, whose)
        self.wants_more = self.wants_work or self.wants_scope
        self.bind = self._binder()

    async def inject(self, scope: Container) -> dict[str, Any]:
        """The values that are injected by type, and the instance of a class whose constructor needs some."""
        values = {name: await scope.aget(kind) for name, kind in self.wanted.items()}
        if self.constructor:
            made = {name: await scope.aget(kind) for name, kind in self.constructor.items()}
            values[_INSTANCE] = call(self.info.target, self.constructor_shape, made)
        return values

    def _binder(self) -> Binder:
        """Decides once how a call gets its arguments; the usual cases have a short path."""
        make, shape, payload = self.call, self.shape, self.payload
        load: Callable[[Any], Any] = _nothing if payload is None else payload.load
        if payload is not None and self.optional:
            load = partial(_or_default, payload.load, self.default)
        first = () if self.payload_name is None else (self.payload_name,)
        if self.constructor is None and not self.wanted and not self.work_names:
            if shape == Shape():
                return lambda ctx, stored, work, injected: partial(make)
            if shape == Shape(first):
                return lambda ctx, stored, work, injected: partial(make, load(stored))
            if first and shape.positional == first and len(shape.named) == 1:
                (name,) = shape.named  # those of the context
                return lambda ctx, stored, work, injected: partial(make, load(stored), **{name: ctx})

        def bind(ctx: JobContext, stored: Any, work: UnitOfWork | None, injected: Mapping[str, Any]) -> partial[Any]:
            values = {**injected, **dict.fromkeys(self.context_names, ctx), **dict.fromkeys(self.work_names, work)}
            if self.payload_name is not None:
                values[self.payload_name] = load(stored)
            args = [values[name] for name in shape.positional]
            if self.constructor is not None:
                instance = values[_INSTANCE] if _INSTANCE in values else self.info.target()
                if self.takes_self:
                    args.insert(0, instance)
            return partial(make, *args, **{name: values[name] for name in shape.named})

        return bind

    def check_result(self, result: Any) -> None:
        """Raises `InvalidHandler` if the handler returned a generator: its body has not run."""
        if inspect.isgenerator(result) or inspect.isasyncgen(result):
            raise InvalidHandler(
                f"handler {self.info.name!r}", "it returned a generator, whose body never ran",
                "Use `return`, not `yield`; a wrapper runs the generator itself.",
            )  # fmt: skip


def _nothing(stored: Any) -> None: ...


def _or_default(load: Callable[[Any], Any], default: Any, stored: Any) -> Any:
    return default if stored is None else load(stored)


def check_typed(payload: Any, of: PayloadType, limit: int, *, optional: bool, handler: str) -> Any:
    if payload is None and optional:
        return None
    if payload is None and not of.free:
        try:
            of.load(None)
        except InvalidPayload:
            raise InvalidPayload(
                "the payload",
                f"it is missing: handler {handler!r} wants {name_of(of.of)}",
                "Pass payload=…; what comes second without a keyword is the job's name.",
            ) from None
    plain = check_json(of.to_json(payload, limit), limit)
    of.check_back(payload, plain)
    return plain
