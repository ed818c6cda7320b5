"""The base of all errors, and how users' values and errors are shown in messages."""

from __future__ import annotations

import reprlib
from typing import Any, Self

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
    """For `exc_info`. None if a property of the user's class raises: it would raise in the log handlers as well."""
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
        """The same error; its message begins with the place where it arose."""
        self.args = (f"{where}: {self.args[0]}", *self.args[1:])
        return self

    def __reduce__(self) -> Any:
        """Errors cross processes unchanged, whatever their classes are built from."""
        return _restored, (type(self), self.args, vars(self))


def _restored(kind: type[AetherError], args: tuple[Any, ...], state: dict[str, Any]) -> AetherError:
    error = kind.__new__(kind)
    error.args = args
    vars(error).update(state)
    return error
