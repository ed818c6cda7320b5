"""The tree drawn in aether_bg.errors is the tree of its classes."""

from __future__ import annotations

import inspect
import re

from aether_bg import errors


def drawn() -> dict[str, tuple[str, str | None]]:
    """Name → (parent, the builtin it also is) by the module's docstring."""
    above: list[str] = []
    found: dict[str, tuple[str, str | None]] = {}
    for line in (errors.__doc__ or "").splitlines():
        if not re.search(r"\b(?:AetherError|[├└])", line) and "──" not in line:
            continue
        bar = re.match(r"[│├└─ ]*", line)
        assert bar is not None
        depth = len(bar[0]) // 4
        names = re.findall(r"(\w+)(?: \((\w+)\))?(?:,|$|  | )", line[len(bar[0]) :].split("   ")[0] + " ")
        del above[depth:]
        for name, builtin in names:
            found[name] = (above[-1] if above else "Exception", builtin or None)
        above.append(names[-1][0])
    return found


def there() -> dict[str, tuple[str, str | None]]:
    found = {}
    for name, kind in vars(errors).items():
        if not (inspect.isclass(kind) and issubclass(kind, errors.AetherError)) or name.startswith("_"):
            continue
        parents = [base for base in kind.__mro__[1:] if not base.__name__.startswith("_")]
        builtin = [base.__name__ for base in kind.__bases__ if base.__module__ == "builtins" and base is not Exception]
        found[name] = (parents[0].__name__, builtin[0] if builtin else None)
    return found


def test_drawn_as_it_is() -> None:
    assert drawn() == there()


def test_every_error_is_exported() -> None:
    assert set(errors.__all__) == set(there())
