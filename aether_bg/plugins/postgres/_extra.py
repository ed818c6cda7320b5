"""Checks that psycopg is installed, or says how to install it. Imported before the modules that use it."""

from __future__ import annotations

from aether_bg.errors import InvalidOption

try:
    import psycopg  # noqa: F401 - only whether it is there
except ImportError as missing:
    raise InvalidOption(
        "a PostgreSQL store", "needs psycopg 3", "To use one: pip install 'aether-bg[postgres]'."
    ) from missing
