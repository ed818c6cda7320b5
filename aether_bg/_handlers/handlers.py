"""Handlers: a signature is read once and compiled; nothing is inspected when a job runs."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import attrs

from aether_bg._handlers.converting import converter
from aether_bg._handlers.dependencies import Dependencies, call
from aether_bg._handlers.payloads import PayloadType, check_json, name_of
from aether_bg._handlers.signatures import (
    Shape,
    hints_of,
    is_async,
    is_generator,
    is_twin,
    loaded_twice,
    shape_of,
    uncached,
    without_none,
)
from aether_bg._handlers.work import UnitOfWork
from aether_bg.errors import DuplicateHandler, InvalidHandler, InvalidOption, InvalidPayload, UnknownHandler, shown
from aether_bg.model import HandlerInfo, JobContext, JobType

if TYPE_CHECKING:
    from cattrs.preconf.json import JsonConverter
    from svcs import Container


Binder = Callable[[JobContext, Any, UnitOfWork | None, Mapping[str, Any]], partial[Any]]
"""Context, stored payload, unit of work, what is injected → the call."""
LOADED_TWICE: Final = "Put the app and its handlers into a module of their own, which the program imports."
_INSTANCE: Final = ""  # no parameter's name
NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@attrs.define(eq=False, kw_only=True)
class Handler:
    """One registered handler, compiled."""

    info: HandlerInfo
    call: Callable[..., Any]
    """The function; for a class, its `handle`."""
    takes_self: bool = False
    """`call` is a method that still wants its instance."""
    payload: PayloadType | None
    payload_name: str | None
    default: Any = None
    """Of the payload parameter."""
    optional: bool
    """The payload parameter has a default."""
    parameters: Sequence[inspect.Parameter]
    hints: Mapping[str, Any]
    context_names: frozenset[str]
    work_names: frozenset[str]
    wanted: Mapping[str, Any] = NOTHING
    constructor: Mapping[str, Any] | None = None
    """What a handler class's constructor wants; None for a function."""
    shape: Shape = attrs.field(factory=Shape)
    bind: Binder = attrs.field(default=None)
    """The call with all its arguments; made by `resolve`. Raises `InvalidPayload` for a payload that no longer fits."""
    constructor_shape: Shape = attrs.field(factory=Shape)

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
                    shown(payload),
                    f"handler {self.info.name!r} takes no payload",
                    "Give it a first parameter, typed (a wrapper: with functools.wraps).",
                )
            return None
        return check_typed(payload, self.payload, limit, optional=self.optional, handler=self.info.name)

    def resolve(self, dependencies: Dependencies) -> None:
        """What it wants by type must be there. Raises `UnresolvedDependency`, and `InvalidHandler` for a wrapper that
        does not take the arguments."""
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
        self.bind = self._binder()

    async def inject(self, scope: Container) -> dict[str, Any]:
        """The values of what is injected by type, and the instance of a class whose constructor wants some."""
        values = {name: await scope.aget(kind) for name, kind in self.wanted.items()}
        if self.constructor:
            made = {name: await scope.aget(kind) for name, kind in self.constructor.items()}
            values[_INSTANCE] = call(self.info.target, self.constructor_shape, made)
        return values

    def _binder(self) -> Binder:
        """How a call gets its arguments, decided once; the usual cases without a step too many."""
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
                (name,) = shape.named  # the context's
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
        """Raises `InvalidHandler` for what a generator returns: its body has not run."""
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
                "the payload", f"it is missing: handler {handler!r} wants {name_of(of.of)}", "Pass payload=…"
            ) from None
    plain = check_json(of.to_json(payload, limit), limit)
    of.check_back(payload, plain)
    return plain


class Handlers:
    """The registry of one app: by name, and by the function or class itself."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._infos: dict[str, HandlerInfo] = {}
        self.limits: dict[str, int] = {}
        """`concurrency` of those that have one (docs/protocol.md, L1)."""
        self._names: dict[Any, str] = {}
        self._compiled: dict[str, Handler] = {}
        self._types: dict[Any, PayloadType] = {}
        self._converter: JsonConverter | None = None
        self._own: dict[Any, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {}

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
        if info.concurrency is not None:
            self.limits[info.name] = info.concurrency
        self._names.setdefault(info.target, info.name)

    def priority(self, name: str) -> int:
        """Of its jobs that have none of their own; 0 where the handler is not known."""
        return self._infos[name].priority if name in self._infos else 0

    def loaded_twice(self) -> bool:
        """Whether the file of a handler is the program's as well: then this app is the second one of that file."""
        return any(loaded_twice(info.target) for info in self._infos.values())

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
            for target, twin in self._names.items():
                if is_twin(given, target):
                    raise UnknownHandler(
                        f"{shown(given)} of module {given.__module__!r}",
                        f"handler {twin!r} is that of module {target.__module__!r}: its file was loaded twice, as the"
                        " program and as a module", f"{LOADED_TWICE} Or enqueue by name: {twin!r}.",
                    )  # fmt: skip
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

    def add_type(self, of: Any, encode: Callable[[Any], Any], decode: Callable[[Any], Any]) -> None:
        """A type of the user's; raises `InvalidOption`."""
        for name, function in (("encode", encode), ("decode", decode)):
            if not callable(function):
                raise InvalidOption(
                    shown(function), "must be a function",
                    "For example: app.payload_type(Money, encode=str, decode=Money.parse).", name=name,
                )  # fmt: skip
        if of in (Any, object, str, int, float, bool, type(None), dict, list):
            raise InvalidOption(f"payload_type({name_of(of)})", "JSON has that type itself", "Pass a type of your own.")
        if of in self._own:
            raise InvalidOption(f"payload_type({name_of(of)})", "is registered already", "Remove one of the two.")
        self._own[of] = encode, decode
        self._converter = None
        self._types.clear()
        self._compiled.clear()

    def payload_type(self, of: Any, what: str) -> PayloadType:
        """Compiled once per type. Raises `InvalidHandler` for a type that cannot be structured."""
        try:
            if of not in self._types:
                self._converter = self._converter or converter(self._own)
                self._types[of] = PayloadType(of, self._converter, self._own.keys())
            return self._types[of]
        except Exception as error:
            raise InvalidHandler(
                what, f"its payload type {name_of(of)} cannot be read from JSON ({type(error).__name__}: {error})",
                "Use an attrs class, dataclass, TypedDict or dict, or register it: app.payload_type(Type, …);"
                " to have it injected: app.provide(Type, factory).",
            ) from error  # fmt: skip

    def resolve(self, dependencies: Dependencies) -> None:
        """At start: what every handler wants by type must be there. Raises `UnresolvedDependency`, by name."""
        self.provided_by(dependencies)
        dependencies.resolve()
        for name in self._infos:
            self.compiled(name).resolve(dependencies)

    def provided_by(self, dependencies: Dependencies) -> None:
        """What is provided decides which parameter is the payload: handlers are compiled again."""
        self._dependencies = dependencies
        self._compiled.clear()

    def _compile(self, info: HandlerInfo) -> Handler:
        what = f"handler {info.name!r}"
        is_class = inspect.isclass(info.target)
        call = uncached(info.target.handle if is_class else info.target)  # type: ignore[attr-defined]
        takes_self = is_class and _takes_self(info.target)
        signature, hints = hints_of(call, what)
        parameters = list(signature.parameters.values())[takes_self:]
        payload, context, work = None, [], []
        for parameter in parameters:
            hint = hints.get(parameter.name, Any)
            if without_none(hint) is JobContext:
                context.append(parameter.name)
            elif without_none(hint) is UnitOfWork:
                work.append(parameter.name)
            elif (
                payload is None
                and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
                and self._dependencies.provided(hint) is None
            ):
                payload = parameter
        of = hints.get(payload.name, Any) if payload is not None else None
        has_default = payload is not None and payload.default is not payload.empty
        return Handler(
            info=attrs.evolve(info, payload_type=of),
            call=call,
            takes_self=takes_self,
            payload=None if payload is None else self.payload_type(of, what),
            payload_name=None if payload is None else payload.name,
            default=payload.default if payload is not None and has_default else None,
            optional=has_default,
            parameters=parameters,
            hints=hints,
            context_names=frozenset(context),
            work_names=frozenset(work),
            constructor={} if is_class else None,
        )


def _takes_self(target: Any) -> bool:
    """Whether `handle` still wants an instance where the class is asked for it."""
    handle = inspect.getattr_static(target, "handle")
    return hasattr(type(handle), "__get__") and not isinstance(handle, staticmethod | classmethod)


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
        call = target
    else:
        raise InvalidHandler(
            what, f"{shown(target)} cannot be called", "Decorate a function, or a class with `handle`."
        )
    if is_generator(call):
        raise InvalidHandler(what, "it is a generator: its body would never run", "Use `return`, not `yield`.")
    return HandlerInfo(name=name, target=target, is_async=is_async(uncached(call)), payload_type=None, **bounds)
