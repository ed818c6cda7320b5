"""Handlers: a signature is read once and compiled; nothing is inspected when a job runs."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from aether_bg._handlers.dependencies import Dependencies, hints_of
from aether_bg._handlers.payloads import PayloadType, check_json, converter, name_of
from aether_bg._handlers.work import UnitOfWork
from aether_bg.errors import DuplicateHandler, InvalidHandler, InvalidPayload, UnknownHandler, shown
from aether_bg.model import HandlerInfo, JobContext, JobType
from aether_bg.protocols import Runner

if TYPE_CHECKING:
    from cattrs.preconf.json import JsonConverter
    from svcs import Container


@attrs.define(eq=False, kw_only=True)
class Handler:
    """One registered handler, compiled."""

    info: HandlerInfo
    call: Callable[..., Any]
    """The function; for a class, its `handle`, still wanting an instance."""
    payload: PayloadType | None
    payload_name: str | None
    """None: passed by position."""
    optional: bool
    """The payload parameter has a default."""
    known: frozenset[str | None]
    """Parameters that are not injected by type: self, payload, context, unit of work."""
    context_names: tuple[str, ...]
    work_names: tuple[str, ...]
    wanted: Mapping[str, Any] = attrs.field(factory=dict)
    run: Runner = attrs.field(default=None)
    """Where it runs; chosen at start by `dispatch_runner`."""
    constructor: Mapping[str, Any] | None = None
    """What a handler class's constructor wants; None for a function."""

    @property
    def wants_work(self) -> bool:
        return bool(self.work_names)

    @property
    def wants_scope(self) -> bool:
        return bool(self.wanted or self.constructor)

    def check(self, payload: Any, limit: int) -> Any:
        """The payload of an enqueue as checked JSON. Raises `InvalidPayload`; nothing has been stored then."""
        if self.payload is None:
            if payload is not None:
                raise InvalidPayload(
                    shown(payload), f"handler {self.info.name!r} takes no payload", "Give it a first parameter, typed."
                )
            return None
        return check_typed(payload, self.payload, limit, optional=self.optional, handler=self.info.name)

    async def bind(
        self, ctx: JobContext, stored: Any, work: UnitOfWork | None, scope: Container | None
    ) -> partial[Any]:
        """The call with all its arguments. Raises `InvalidPayload` when the stored payload no longer fits."""
        args: list[Any] = []
        named: dict[str, Any] = {}
        if self.payload is not None and not (stored is None and self.optional):
            value = self.payload.load(stored)
            if self.payload_name is None:
                args.append(value)
            else:
                named[self.payload_name] = value
        for name in self.context_names:
            named[name] = ctx
        for name in self.work_names:
            named[name] = work
        call = self.call
        if scope is not None:
            for name, kind in self.wanted.items():
                named[name] = await scope.aget(kind)
        if self.constructor is not None:
            assert scope is not None or not self.constructor
            made = {name: await scope.aget(kind) for name, kind in self.constructor.items()} if scope else {}
            call = partial(call, self.info.target(**made))
        return partial(call, *args, **named)


def check_typed(payload: Any, of: PayloadType, limit: int, *, optional: bool, handler: str) -> Any:
    if payload is None and optional:
        return None
    if payload is None and not of.free:
        try:
            of.load(None)
        except InvalidPayload:
            raise InvalidPayload(
                "the payload", f"it is missing: handler {handler!r} wants {name_of(of.of)}", "Pass payload=…"
            ) from None
    plain = check_json(of.to_json(payload, limit), limit)
    if not of.free:
        of.load(plain)
    return plain


class Handlers:
    """The registry of one app: by name, and by the function or class itself."""

    def __init__(self) -> None:
        self._infos: dict[str, HandlerInfo] = {}
        self._names: dict[Any, str] = {}
        self._compiled: dict[str, Handler] = {}
        self._types: dict[Any, PayloadType] = {}
        self._converter: JsonConverter | None = None

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def add(self, info: HandlerInfo) -> None:
        if info.name in self._infos:
            raise DuplicateHandler(
                f"handler {shown(info.name)}", f"the name is taken by {name_of(self._infos[info.name].target)}",
                "Choose another name.",
            )  # fmt: skip
        self._infos[info.name] = info
        self._names.setdefault(info.target, info.name)

    def name_of(self, given: Any) -> str:
        """The handler's name of what `enqueue` was given: a name, a function or class, or a `JobType`."""
        if isinstance(given, str):
            return given
        if isinstance(given, JobType):
            return given.name
        try:
            name = self._names.get(given)
        except TypeError:
            name = None
        if name is None:
            raise UnknownHandler(
                shown(given), "it is no registered handler", "Decorate it with @app.handler(name), or pass a name."
            )
        return name

    def compiled(self, name: str) -> Handler:
        """Raises `UnknownHandler`, with the nearest name."""
        if name not in self._compiled:
            if name not in self._infos:
                near = difflib.get_close_matches(name, self._infos, n=1, cutoff=0.5)
                known = ", ".join(sorted(self._infos)[:8]) or "none"
                raise UnknownHandler(
                    f"handler {shown(name)}", "no handler of that name is registered in this process",
                    f"Did you mean {near[0]!r}?" if near else f"Registered: {known}.",
                )  # fmt: skip
            self._compiled[name] = self._compile(self._infos[name])
        return self._compiled[name]

    def payload_type(self, of: Any, what: str) -> PayloadType:
        """Compiled once per type. Raises `InvalidHandler` for a type that cannot be structured."""
        try:
            if of not in self._types:
                self._converter = self._converter or converter()
                self._types[of] = PayloadType(of, self._converter)
            return self._types[of]
        except Exception as error:
            raise InvalidHandler(
                what, f"its payload type {name_of(of)} cannot be read from JSON ({type(error).__name__}: {error})",
                "Use an attrs class, dataclass, TypedDict or dict; inject services by keyword-only parameters.",
            ) from error  # fmt: skip

    def resolve(self, dependencies: Dependencies) -> None:
        """At start: what every handler wants by type must be there. Raises `UnresolvedDependency`, by name."""
        dependencies.resolve()
        for name in self._infos:
            handler = self.compiled(name)
            what = f"handler {name!r}"
            if handler.payload is not None and dependencies.knows(handler.payload.of):
                raise InvalidHandler(
                    what, f"its first parameter would be the payload, but {name_of(handler.payload.of)} is provided",
                    "Make injected parameters keyword-only: def handler(*, mailer: Mailer).",
                )  # fmt: skip
            handler.wanted = dependencies.wanted_by(handler.call, what, known=handler.known)
            if inspect.isclass(handler.info.target):
                handler.constructor = dependencies.wanted_by(handler.info.target, f"the constructor of {what}")

    def _compile(self, info: HandlerInfo) -> Handler:
        what = f"handler {info.name!r}"
        is_class = inspect.isclass(info.target)
        call = info.target.handle if is_class else info.target  # type: ignore[attr-defined]
        signature, hints = hints_of(call, what)
        payload, context, work = None, [], []
        parameters = list(signature.parameters.values())
        for parameter in parameters[is_class:]:
            kind = hints.get(parameter.name, Any)
            if kind is JobContext:
                context.append(parameter.name)
            elif kind is UnitOfWork:
                work.append(parameter.name)
            elif payload is None and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                payload = parameter
            elif parameter.kind is parameter.POSITIONAL_ONLY:
                raise InvalidHandler(
                    what,
                    f"parameter {parameter.name!r} is positional-only, so it cannot be injected",
                    "Remove the '/'.",
                )
        by_position = payload is not None and payload.kind is payload.POSITIONAL_ONLY
        of = hints.get(payload.name, Any) if payload is not None else None
        names = {
            payload.name if payload is not None else None,
            *context,
            *work,
            *(p.name for p in parameters[:is_class]),
        }
        return Handler(
            info=attrs.evolve(info, payload_type=of),
            call=call,
            known=frozenset(names),
            payload=None if payload is None else self.payload_type(of, what),
            payload_name=None if payload is None or by_position else payload.name,
            optional=payload is not None and payload.default is not payload.empty,
            context_names=tuple(context),
            work_names=tuple(work),
            constructor={} if is_class else None,
        )


def info_of(name: str, target: Any, **bounds: Any) -> HandlerInfo:
    """Raises `InvalidHandler` for what can never be called as a handler."""
    what = f"handler {shown(name)}"
    if inspect.isclass(target):
        handle = getattr(target, "handle", None)
        if not callable(handle):
            raise InvalidHandler(
                what, f"class {target.__qualname__} has no method `handle`", "Add one, or use a function."
            )
        call: Any = handle
    elif callable(target):
        call = target if inspect.isroutine(target) else target.__call__
    else:
        raise InvalidHandler(
            what, f"{shown(target)} cannot be called", "Decorate a function, or a class with `handle`."
        )
    if inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
        raise InvalidHandler(what, "it is a generator: its body would never run", "Use `return`, not `yield`.")
    return HandlerInfo(
        name=name, target=target, is_async=inspect.iscoroutinefunction(call), payload_type=None, **bounds
    )
