"""Dependencies that handlers request by type: svcs makes them for one attempt and closes them after it."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from contextvars import ContextVar
from functools import cache, partial
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs

from aether_bg._handlers.awaited import awaited
from aether_bg._handlers.lasting import Lasting
from aether_bg._handlers.signatures import Shape, hints_of, is_guarded, shape_of, without_none, without_stale
from aether_bg.errors import InvalidHandler, UnresolvedDependency, brief, shown
from aether_bg.explain import plain
from aether_bg.model import JobContext

if TYPE_CHECKING:
    from svcs import Container, Registry

log = logging.getLogger("aether_bg")

CLOSE_WITHIN: Final = 5.0
"""Seconds that one dependency has for its clean-up."""
CLOSE_AT_STOP: Final = 0.4
"""Seconds that all dependencies of an attempt have together once the stop has cancelled it."""


@attrs.define(eq=False)
class Closing:
    """The clean-up of one attempt: for which job, whether the stop waits for it, how the attempt failed, what went
    wrong."""

    of: str
    hurried: Callable[[], bool]
    error: BaseException | None = None
    notes: list[str] = attrs.field(factory=list)
    opened: int = 0
    _until: float | None = None

    def within(self) -> float:
        """Seconds for the next dependency; during the stop, a fair share of what is left."""
        if not self.hurried():
            return CLOSE_WITHIN
        now = anyio.current_time()
        self._until = self._until or now + CLOSE_AT_STOP
        return max(self._until - now, 0.02) / max(self.opened, 1)


_closing: ContextVar[Closing | None] = ContextVar("aether_bg_closing", default=None)
"""For the attempt that runs in this context."""


@cache
def _svcs() -> ModuleType:
    """Imports svcs on first use: it imports the web frameworks that are installed, with their warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import svcs
    return svcs


class Dependencies:
    """The registrations of `provide`. svcs is imported when something is to be injected."""

    def __init__(self) -> None:
        self._registry: Registry | None = None
        self._wants: dict[Any, dict[str, Any]] = {}
        self._shapes: dict[Any, Shape] = {}
        self._factories: dict[Any, Callable[..., Any]] = {}
        self.lasting = Lasting()

    def provide(
        self, kind: Any, factory: Callable[..., Any] | None, ping: Callable[..., Any] | None, *, lasts: bool = False
    ) -> None:
        make = kind if factory is None else factory
        if not callable(make):
            raise InvalidHandler(
                f"provide({shown(kind)}, {shown(factory)})", "the second argument is a factory",
                "Pass a function; for a ready value: lambda: value.",
            )  # fmt: skip
        self._factories[kind] = make = without_stale(make)
        self.lasting.set(kind, lasts)
        if lasts:
            self._registered().register_factory(kind, partial(self.lasting.value, kind), enter=False, ping=ping)
        else:
            self._registered().register_factory(kind, self._wrapped(kind), ping=ping)

    def _registered(self) -> Registry:
        if self._registry is None:
            self._registry = _svcs().Registry()
        return self._registry

    def knows(self, kind: Any) -> bool:
        try:
            return kind is JobContext or kind in self._factories
        except TypeError:  # an annotation that cannot be hashed
            return False

    def provided(self, hint: Any) -> Any:
        """The type to inject for this annotation, `T` or `T | None`; None if there is nothing to inject."""
        kind = without_none(hint)
        return hint if self.knows(hint) else kind if self.knows(kind) else None

    def resolve(self) -> None:
        """Reads every factory's signature and checks that what it needs is provided. Raises `UnresolvedDependency`."""
        for kind, make in self._factories.items():
            what = f"the factory of {getattr(kind, '__qualname__', kind)}"
            wants = self._wants[kind] = self.wanted_of(make, what)
            self._shapes[kind] = self.shape(make, wants, what)
        self.lasting.order(self._wants)

    async def open(self, stack: AsyncExitStack) -> None:
        """At the start: makes what lasts as long as the app. `stack` closes it. Raises `DependencyFailed`."""
        token = _closing.set(Closing("the app", lambda: False))
        try:
            await self.lasting.open(self._wants, lambda kind: self._make(kind, self.lasting.get), stack)
        finally:
            _closing.reset(token)

    def wanted_of(self, make: Callable[..., Any], what: str) -> dict[str, Any]:
        """Parameter → type for everything that must be injected into a factory. Raises `UnresolvedDependency`."""
        if inspect.isclass(make) and make.__init__ is object.__init__:
            return {}
        try:
            signature, hints = hints_of(make, what)
        except InvalidHandler:
            if inspect.isbuiltin(make) or inspect.isclass(make):
                return {}  # written in C: nothing to inject
            raise
        return self.wanted_by(list(signature.parameters.values()), hints, what)

    def wanted_by(
        self, parameters: Sequence[inspect.Parameter], hints: Mapping[str, Any], what: str,
        known: frozenset[str | None] = frozenset(), remedy: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """The same for these parameters, except the `known` ones. `remedy`: text added to the error's remedy."""
        wanted: dict[str, Any] = {}
        for parameter in parameters:
            if parameter.name in known or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            kind = hints.get(parameter.name)
            if (injected := self.provided(kind)) is not None:
                wanted[parameter.name] = injected
            elif parameter.default is parameter.empty:
                raise UnresolvedDependency(
                    f"parameter {parameter.name!r} of {what}",
                    f"nothing provides {getattr(kind, '__qualname__', kind)}" if kind else "it has no annotation",
                    f"Register a factory with app.provide(Type, factory), or give the parameter a default.{remedy}",
                )
        return wanted

    def shape(self, make: Callable[..., Any], wanted: Mapping[str, Any], what: str) -> Shape:
        """How `make` takes what is injected into it. Raises `InvalidHandler`."""
        parameters = list(inspect.signature(make).parameters.values()) if wanted else []
        return shape_of(make, parameters, list(wanted), what) if wanted else Shape()

    @asynccontextmanager
    async def scope(self, ctx: JobContext, closing: Closing) -> AsyncIterator[Container]:
        """A container for one attempt, closed at its end with the error that the attempt raised."""
        container: Container = _svcs().Container(self._registered())
        container.register_local_value(JobContext, ctx)
        _closing.set(closing)
        try:
            yield container
        except BaseException as error:
            closing.error = error
            raise
        finally:
            await container.aclose()
            closing.error = None  # else the error and its frames keep each other

    async def pings(self) -> dict[str, str | None]:
        """The answer of each registered ping: None if it succeeds, else its error."""
        answers: dict[str, str | None] = {}
        if self._registry is None:
            return answers
        async with _svcs().Container(self._registry) as container:
            for ping in container.get_pings():
                try:
                    await ping.aping()
                    answers[ping.name] = None
                except Exception as error:
                    answers[ping.name] = brief(error)
        return answers

    def _wrapped(self, kind: Any) -> Callable[..., Any]:
        async def factory(svcs_container: Container) -> Any:
            return await self._make(kind, svcs_container.aget)

        return factory

    async def _make(self, kind: Any, get: Callable[[Any], Awaitable[Any]]) -> Any:
        """Decides by what the call returned: awaits it, enters it, or takes it as it is, whatever wraps the factory."""
        wanted = {name: await get(of) for name, of in self._wants[kind].items()}
        made = call(self._factories[kind], self._shapes[kind], wanted)
        made = await awaited(made, context=True)
        if inspect.isgenerator(made):
            made = contextmanager(partial(_same, made))()
        elif inspect.isasyncgen(made):
            made = asynccontextmanager(partial(_same, made))()
        if isinstance(made, AbstractAsyncContextManager | AbstractContextManager):
            return _Scoped(made, getattr(kind, "__qualname__", str(kind)))
        return made


def call(make: Callable[..., Any], shape: Shape, values: Mapping[str, Any]) -> Any:
    return make(*[values[name] for name in shape.positional], **{name: values[name] for name in shape.named})


def _same(value: Any) -> Any:
    return value


class _Scoped(AbstractAsyncContextManager[Any]):
    """Closes what a factory opened, however the attempt ended (docs/protocol.md, S8).

    svcs closes without the attempt's error, which a connection needs to roll back: `Closing` has it. The clean-up is
    shielded and bounded; errors are logged and noted for the run, and never keep the other dependencies open.
    """

    def __init__(self, inner: AbstractAsyncContextManager[Any] | AbstractContextManager[Any], name: str) -> None:
        self._inner, self._name = inner, name
        self._closing: Closing | None = None

    async def __aenter__(self) -> Any:
        if isinstance(self._inner, AbstractAsyncContextManager):
            value = await self._inner.__aenter__()
        else:
            value = self._inner.__enter__()
        self._closing = closing = _closing.get()
        assert closing is not None  # `scope` has set it
        closing.opened += 1
        return value

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        closing = self._closing
        if closing is None:
            return  # it was never opened
        within, trouble = closing.within(), None
        closing.opened -= 1
        try:
            with anyio.move_on_after(within, shield=True) as scope:
                await self._exit(closing.error)
            if scope.cancelled_caught:
                trouble = f"it did not end within {within:.3g} s"
        except GeneratorExit:
            raise
        except BaseException as raised:
            trouble = brief(raised)
        if trouble is not None:
            closing.notes.append(f"closing {self._name}: {trouble}")
            log.warning("%s: closing %s: %s", closing.of, self._name, plain(trouble))

    async def _exit(self, error: BaseException | None) -> None:
        """A context manager sees how the attempt failed, and may raise that error again; suppressing it changes
        nothing. A generator without `try` or `with` around its `yield` goes on after it, so that it cleans up."""
        generator = getattr(self._inner, "gen", None)  # contextlib's
        if (inspect.isgenerator(generator) or inspect.isasyncgen(generator)) and not is_guarded(generator):
            error = None
        about = (None, None, None) if error is None else (type(error), error, error.__traceback__)
        try:
            if isinstance(self._inner, AbstractAsyncContextManager):
                await self._inner.__aexit__(*about)
            else:
                self._inner.__exit__(*about)
        except BaseException as raised:
            if raised is not error:
                raise
