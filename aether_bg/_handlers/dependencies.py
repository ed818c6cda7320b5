"""What handlers ask for by type: made by svcs for one attempt, closed after it."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import cache
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, get_type_hints

from aether_bg.errors import InvalidHandler, UnresolvedDependency, shown
from aether_bg.model import JobContext

if TYPE_CHECKING:
    from svcs import Container, Registry

_closing: ContextVar[list[str] | None] = ContextVar("aether_bg_closing", default=None)
"""Where errors of this attempt's clean-up are noted."""


def hints_of(target: Callable[..., Any], what: str) -> tuple[inspect.Signature, dict[str, Any]]:
    """A callable's signature and resolved annotations. Raises `InvalidHandler`."""
    source = target.__init__ if inspect.isclass(target) else target
    try:
        return inspect.signature(target), get_type_hints(source, include_extras=False)
    except NameError as error:
        raise InvalidHandler(
            what, f"its annotation names something unknown ({error})", "Import it, or define it before the app starts."
        ) from error
    except (TypeError, ValueError) as error:
        raise InvalidHandler(
            what, f"its signature cannot be read ({error})", "Use a plain function or class."
        ) from error


@cache
def _svcs() -> ModuleType:
    """svcs, imported when it is first needed; with web frameworks around it imports them, and their warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import svcs
    return svcs


class Dependencies:
    """`provide`'s registrations. svcs is imported when there is a first one."""

    def __init__(self) -> None:
        self._registry: Registry | None = None
        self._wants: dict[Any, dict[str, Any]] = {}
        self._factories: dict[Any, Callable[..., Any]] = {}

    def provide(self, kind: Any, factory: Callable[..., Any] | None, ping: Callable[..., Any] | None) -> None:
        make = kind if factory is None else factory
        if not callable(make):
            raise InvalidHandler(
                f"provide({shown(kind)}, {shown(factory)})", "the second argument is a factory",
                "Pass a function; for a ready value: lambda: value.",
            )  # fmt: skip
        if self._registry is None:
            self._registry = _svcs().Registry()
        self._factories[kind] = make
        self._registry.register_factory(kind, self._wrapped(kind, make), ping=ping)

    def knows(self, kind: Any) -> bool:
        return kind is JobContext or kind in self._factories

    def resolve(self) -> None:
        """Read every factory's signature; what it wants must be there. Raises `UnresolvedDependency`."""
        for kind, make in self._factories.items():
            what = f"the factory of {getattr(kind, '__qualname__', kind)}"
            self._wants[kind] = self.wanted_by(make, what)

    def wanted_by(
        self, make: Callable[..., Any], what: str, known: frozenset[str | None] = frozenset()
    ) -> dict[str, Any]:
        """Parameter → type for everything that must be injected into `make`, but for the `known`."""
        if inspect.isclass(make) and make.__init__ is object.__init__:
            return {}
        try:
            signature, hints = hints_of(make, what)
        except InvalidHandler:
            if inspect.isbuiltin(make) or inspect.isclass(make):
                return {}  # written in C: nothing to inject
            raise
        wanted: dict[str, Any] = {}
        for parameter in signature.parameters.values():
            if parameter.name in known or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            kind = hints.get(parameter.name)
            if kind is not None and self.knows(kind):
                wanted[parameter.name] = kind
            elif parameter.default is parameter.empty:
                raise UnresolvedDependency(
                    f"parameter {parameter.name!r} of {what}",
                    f"nothing provides {getattr(kind, '__qualname__', kind)}" if kind else "it has no annotation",
                    "Register a factory with app.provide(Type, factory), or give the parameter a default.",
                )
        return wanted

    def scope(self, ctx: JobContext, errors: list[str]) -> Container:
        """A container for one attempt; close it with `await container.aclose()`."""
        assert self._registry is not None  # a handler that wants something has been resolved
        container: Container = _svcs().Container(self._registry)
        container.register_local_value(JobContext, ctx)
        _closing.set(errors)
        return container

    async def pings(self) -> dict[str, str | None]:
        """Each registered ping: None when it answers, else what it said."""
        answers: dict[str, str | None] = {}
        if self._registry is None:
            return answers
        async with _svcs().Container(self._registry) as container:
            for ping in container.get_pings():
                try:
                    await ping.aping()
                    answers[ping.name] = None
                except Exception as error:
                    answers[ping.name] = f"{type(error).__name__}: {error}"
        return answers

    async def close(self) -> None:
        if self._registry is not None:
            await self._registry.aclose()

    def _wrapped(self, kind: Any, make: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isgeneratorfunction(make):
            make = contextmanager(make)
        elif inspect.isasyncgenfunction(make):
            make = asynccontextmanager(make)

        async def factory(svcs_container: Container) -> Any:
            wanted = {name: await svcs_container.aget(of) for name, of in self._wants[kind].items()}
            made = make(**wanted)
            if inspect.isawaitable(made):
                made = await made
            if isinstance(made, AbstractAsyncContextManager | AbstractContextManager):
                return _Scoped(made)
            return made

        return factory


class _Scoped(AbstractAsyncContextManager[Any]):
    """Closes what a factory opened; an error while closing is noted for the run, never a failure of it."""

    def __init__(self, inner: AbstractAsyncContextManager[Any] | AbstractContextManager[Any]) -> None:
        self._inner = inner
        self._entered = False

    async def __aenter__(self) -> Any:
        if isinstance(self._inner, AbstractAsyncContextManager):
            value = await self._inner.__aenter__()
        else:
            value = self._inner.__enter__()
        self._entered = True
        return value

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._entered:
            return
        try:
            if isinstance(self._inner, AbstractAsyncContextManager):
                await self._inner.__aexit__(None, None, None)
            else:
                self._inner.__exit__(None, None, None)
        except Exception as trouble:
            if (errors := _closing.get()) is not None:
                errors.append(f"closing {type(self._inner).__name__}: {type(trouble).__name__}: {trouble}")
            raise  # svcs logs it and goes on with the next
