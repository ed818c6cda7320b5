"""How stores read rows that another program may have changed (docs/protocol.md, C8)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, Final

MOST_DEPTH: Final = 256
"""The depth of stored JSON: more than payloads may have, with room for what codecs wrap around them."""
WRONG: Final = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What reading a bad column raises."""
REMEDY: Final = "It is kept and does not run: delete it, and enqueue it again."


def check_depth(text: str) -> None:
    """Raises `ValueError` for JSON that is nested too deep to be read."""
    if text.count("[") + text.count("{") <= MOST_DEPTH:
        return
    depth = 0
    for bracket in re.sub(r'"(?:[^"\\]|\\.)*+"|[^\[\]{}"]', "", text, flags=re.DOTALL):
        depth += 1 if bracket in "[{" else -1
        if depth > MOST_DEPTH:
            raise ValueError(f"JSON nested more than {MOST_DEPTH} deep")


def mapping(text: str, from_json: Callable[[str], Any]) -> dict[str, Any]:
    """Raises `ValueError` for any value except an object."""
    if text == "{}":
        return {}
    found = from_json(text)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def written_types(cls: type[Any]) -> dict[str, str]:
    """The types of a value's fields as its class has them written. `attrs.fields` has other ones once a library has
    resolved them, as cattrs does."""
    return {name: text for base in reversed(cls.__mro__) for name, text in inspect.get_annotations(base).items()}
