"""The handlers of an app by name. Each is compiled once: when its name is first used, or when the app starts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import attrs

from aether_bg._handlers.dependencies import Dependencies
from aether_bg._handlers.handlers import Handler
from aether_bg._handlers.payloads import PayloadType, name_of
from aether_bg._handlers.signatures import (
    hints_of,
    is_async,
    is_generator,
    is_twin,
    loaded_twice,
    uncached,
    without_none,
)
from aether_bg._handlers.work import UnitOfWork
from aether_bg._rules.validation import nearest
from aether_bg.errors import DuplicateHandler, InvalidHandler, InvalidOption, UnknownHandler, shown
from aether_bg.model import HandlerInfo, JobContext, JobType

if TYPE_CHECKING:
    from cattrs.preconf.json import JsonConverter


LOADED_TWICE: Final = "Put the app and its handlers into a module of their own, which the program imports."


class Handlers:
    """The registry of one app: finds handlers by name, and by the function or class itself."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._infos: dict[str, HandlerInfo] = {}
        self.limits: dict[str, int] = {}
        """`concurrency` of the handlers that have one (docs/protocol.md, L1)."""
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
        """The priority of jobs that have none of their own; 0 if the handler is not known."""
        return self._infos[name].priority if name in self._infos else 0

    def loaded_twice(self) -> bool:
        """Whether the file of a handler is also the running program: then this app is the second one made from that
        file."""
        return any(loaded_twice(info.target) for info in self._infos.values())

    def name_of(self, given: Any) -> str:
        """The handler's name for what `enqueue` was given: a name, a function or class, or a `JobType`."""
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
                near = nearest(name, self._infos, cutoff=0.5)
                known = ", ".join(sorted(self._infos)[:8]) or "none"
                raise UnknownHandler(
                    f"handler {shown(name)}", "no handler of that name is registered in this process",
                    f"Did you mean {near!r}?" if near else f"Registered: {known}.",
                )  # fmt: skip
            self._compiled[name] = self._compile(self._infos[name])
        return self._compiled[name]

    def add_type(self, of: Any, encode: Callable[[Any], Any], decode: Callable[[Any], Any]) -> None:
        """Adds a type of the user's. Raises `InvalidOption`."""
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

    def payload_type(self, of: Any, what: str, kind: str = "payload") -> PayloadType:
        """Compiled once per type. Raises `InvalidHandler` for a type that cannot be structured."""
        try:
            if (of, kind) not in self._types:
                if self._converter is None:
                    from aether_bg._handlers.converting import converter  # only for payloads with a type

                    self._converter = converter(self._own)
                self._types[of, kind] = PayloadType(of, self._converter, self._own.keys(), kind)
            return self._types[of, kind]
        except Exception as error:
            raise InvalidHandler(
                what, f"its {kind} type {name_of(of)} cannot be read from JSON ({type(error).__name__}: {error})",
                "Use an attrs class, dataclass, TypedDict or dict, or register it: app.payload_type(Type, …);"
                " to have it injected: app.provide(Type, factory).",
            ) from error  # fmt: skip

    def resolve(self, dependencies: Dependencies) -> None:
        """At the start: checks that everything handlers request by type is provided. Raises `UnresolvedDependency`, by
        name."""
        self.provided_by(dependencies)
        dependencies.resolve()
        for name in self._infos:
            self.compiled(name).resolve(dependencies)

    def provided_by(self, dependencies: Dependencies) -> None:
        """The provided types decide which parameter is the payload, so handlers are compiled again."""
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
        returned = hints.get("return", Any)
        returned = Any if returned is type(None) else returned
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
            returns=self.payload_type(returned, what, "result") if info.keep_result else None,
            parameters=parameters,
            hints=hints,
            context_names=frozenset(context),
            work_names=frozenset(work),
            constructor={} if is_class else None,
        )


def _takes_self(target: Any) -> bool:
    """Whether `handle` needs an instance when it is read from the class."""
    handle = inspect.getattr_static(target, "handle")
    return hasattr(type(handle), "__get__") and not isinstance(handle, staticmethod | classmethod)


def info_of(name: str, target: Any, **bounds: Any) -> HandlerInfo:
    """Raises `InvalidHandler` for an object that can never be called as a handler."""
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
