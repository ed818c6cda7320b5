"""Stores by their paths and URLs."""

from __future__ import annotations

import os
from typing import Any, Final

from aether_bg._hooks.plugins import default
from aether_bg.errors import InvalidOption, shown

STORES: Final = "aether_bg.stores"
"""Entry points that make a store from a URL; their names are the schemes."""
EXTRAS: Final = {"postgresql": "postgres", "postgres": "postgres"}
"""The extra of this package that installs the store of a scheme."""


def store_of(store: Any) -> Any:
    """A store plugin, created from a path or URL if necessary. Raises `InvalidOption`."""
    if not isinstance(store, str | os.PathLike):
        return store
    scheme, separator, _ = os.fsdecode(store).partition("://") if isinstance(store, str) else ("", "", "")
    if not separator or scheme in ("file", "sqlite"):  # the file store knows it, or refuses it with a better reason
        return default("store")(store)
    from importlib.metadata import entry_points as announced

    known = {point.name: point for point in announced(group=STORES)}
    if scheme in known:
        return known[scheme].load()(store)
    extra = EXTRAS.get(scheme)
    install = f"pip install 'aether-bg[{extra}]'" if extra else f"install the package that announces it in {STORES!r}"
    raise InvalidOption(
        f"store={scheme}://…", f"must be a path, or a URL whose scheme has a store; {shown(scheme)} has none here",
        f"To use such a store: {install}.",
    )  # fmt: skip
