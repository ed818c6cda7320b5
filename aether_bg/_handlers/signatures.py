"""The user's callables: which code they run, whether it is async, which parameters it has, how arguments reach them."""

from __future__ import annotations

import dis
import functools
import inspect
import os
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

import attrs

from aether_bg.errors import InvalidHandler

_CACHED: Any = type(functools.lru_cache(lambda: None))


def code_of(target: Any) -> Any:
    """The function behind a partial, a static or bound method, or an object with `__call__`."""
    while True:
        if isinstance(target, functools.partial):
            target = target.func
        elif isinstance(target, staticmethod | classmethod | types.MethodType):
            target = target.__func__
        elif isinstance(method := _partialmethod(target), functools.partialmethod):
            target = method.func
        elif inspect.isroutine(target) or inspect.isclass(target) or not hasattr(type(target), "__call__"):  # noqa: B004
            return target
        else:
            target = type(target).__call__


def _partialmethod(target: Any) -> Any:
    """The function that a `partialmethod` was made from; Python has renamed the attribute."""
    return getattr(target, "__partialmethod__", None) or getattr(target, "_partialmethod", None)


def uncached(target: Any) -> Any:
    """The function without its cache. Every job must run: a cache would skip the next job with the same payload, and
    return coroutines that have been awaited already."""
    return target.__wrapped__ if isinstance(target, _CACHED) else target


def without_stale(factory: Any) -> Any:
    """The factory without its cache, if that would return something that can be used only once: a coroutine, a
    generator."""
    inner = uncached(factory)
    return inner if is_async(_inside(inner)) or is_generator(_inside(inner)) else factory


def is_async(target: Any) -> bool:
    """Whether a call is known to return a coroutine. A plain wrapper may return one as well."""
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(code_of(target))


def is_generator(target: Any) -> bool:
    code = code_of(target)
    return inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code)


def is_guarded(generator: Any) -> bool:
    """Whether the `yield` at which this generator waits is inside a `try` or `with`, which sees an error raised there.

    If it is not, the error would only skip the code after the `yield`.
    """
    frame = getattr(generator, "gi_frame", None) or getattr(generator, "ag_frame", None)
    if frame is None:
        return False
    code = dis.Bytecode(frame.f_code)
    handlers = {instruction.offset for instruction in code if instruction.opname == "PUSH_EXC_INFO"}
    entries: Any = getattr(code, "exception_entries", ())
    return any(entry.start <= frame.f_lasti < entry.end and entry.target in handlers for entry in entries)


def is_twin(one: Any, other: Any) -> bool:
    """Whether both are the same code, from a file that was loaded twice: as the program and as a module."""
    modules = {getattr(one, "__module__", None), getattr(other, "__module__", None)}
    names = {getattr(one, "__qualname__", None), getattr(other, "__qualname__", None)}
    return "__main__" in modules and len(modules) == 2 and len(names) == 1 and len({*map(_file_of, modules)}) == 1


def loaded_twice(target: Any) -> bool:
    """Whether the file of a module's function is also the running program."""
    module = getattr(target, "__module__", None)
    program = _file_of("__main__")
    return module != "__main__" and program is not None and _file_of(module) == program


def _file_of(module: str | None) -> str | None:
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    return None if file is None else os.path.realpath(file)


def _inside(target: Any) -> Any:
    """The function whose signature `inspect.signature` gives, inside wrappers and partials."""
    while True:
        if isinstance(target, functools.partial):
            inner = target.func
        elif hasattr(target, "__wrapped__") and not hasattr(target, "__signature__"):
            inner = target.__wrapped__
        else:
            inner = code_of(target)
        if inner is target:
            return target
        target = inner


def hints_of(target: Callable[..., Any], what: str) -> tuple[inspect.Signature, dict[str, Any]]:
    """A callable's signature and resolved annotations. Raises `InvalidHandler`."""
    source = target.__init__ if inspect.isclass(target) else _inside(target)
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


def without_none(hint: Any) -> Any:
    """`T` of `T | None`; anything else as it is."""
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        return kinds[0] if len(kinds) == 1 else hint
    return hint


@attrs.frozen
class Shape:
    """How arguments are passed: `positional` in order, `named` by name."""

    positional: tuple[str, ...] = ()
    named: tuple[str, ...] = ()


def shape_of(
    target: Callable[..., Any], parameters: Sequence[inspect.Parameter], passed: Sequence[str], what: str,
    *, payload: str | None = None, bound: int = 0,
) -> Shape:  # fmt: skip
    """The payload goes by position and other arguments by name, or as the wrapper around the function takes them.

    `parameters`: of the function inside, in order; `passed`: the names among them that get a value; `bound`: how many
    arguments come before them. Raises `InvalidHandler` if the wrapper cannot take them.
    """
    leading: list[str] = []  # can go by position: no parameter before it is left out
    least = 0
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            break
        if parameter.name not in passed:
            break
        leading.append(parameter.name)
        if parameter.kind is parameter.POSITIONAL_ONLY:
            least = len(leading)
    payload_first = max(least, leading.index(payload) + 1 if payload in leading else 0)
    try:
        own = inspect.signature(target, follow_wrapped=False)
    except (TypeError, ValueError):
        own = None
    for count in (payload_first, len(leading), least):
        shape = Shape(tuple(leading[:count]), tuple(name for name in passed if name not in leading[:count]))
        if own is None:
            return shape
        try:
            own.bind(*[None] * (bound + count), **dict.fromkeys(shape.named))
        except TypeError:
            continue
        return shape
    raise InvalidHandler(
        what, f"it is wrapped in a function that takes {own}, not {', '.join(passed) or 'no argument'}",
        "Let the wrapper take *args and **kwargs, and pass both on.",
    )  # fmt: skip
