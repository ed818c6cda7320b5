"""The columns of the tables: their types and their order."""

from __future__ import annotations

from typing import Any, Final

import attrs

from aether_bg.plugins._stored import written_types
from aether_bg.plugins.postgres.columns import JOB_COLUMNS, RUN_COLUMNS, type_of

SORTED: Final = ' COLLATE "C"'
"""For names: no index breaks when the system's collations change."""
_NAMES: Final = frozenset(("job_name", "handler_name"))
DOMAINS: Final = {
    "instant": "timestamptz CHECK (VALUE BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59.999999+00')",
    "job_status": "smallint CHECK (VALUE BETWEEN 0 AND 4)",
    "misfire": "text CHECK (VALUE IN ('once', 'skip', 'all'))",
    "metadata": "json CHECK (json_typeof(VALUE) = 'object')",
}
"""Types that refuse now what cannot be read later, for example an instant that Python cannot represent. A type looks at
what is assigned; a constraint of the table would look at the whole row, at each update."""
_DOMAIN_OF: Final = {"status": "job_status", "misfire": "misfire", "extra_properties": "metadata"}
INDEXED: Final = (
    "id", "job_id", "seq", "token", "gap", "modified_at", "priority", "crash_count", "waits_for", "status", "paused",
    "manual", "declared", "holds_name", "handler_name", "due_at", "job_name", "owner", "handled_time", "timezone",
    "occurrence", "outcome",
)  # fmt: skip
"""What indexes are about comes first in a table, and of that what is never NULL and has a fixed width: an update
compares each of them with the row before, and finds one by walking past all that are in front of it."""


def declared(cls: type[Any]) -> str:
    """The columns of a table of `cls`, as CREATE TABLE has them; after those of INDEXED, fixed widths save padding."""
    lines, written = [], written_types(cls)
    fields = [field for field in attrs.fields(cls) if field.name in (*JOB_COLUMNS, *RUN_COLUMNS)]
    for field in sorted(fields, key=lambda field: _place(field.name)):
        optional = written[field.name].endswith(" | None")
        collation = SORTED if field.name in _NAMES else ""
        rule = "" if optional else " NOT NULL DEFAULT false" if field.default is False else " NOT NULL"
        lines.append(f"{field.name} {_declared_type(field.name)}{collation}{rule}")
    return ",\n    ".join(lines)


def _place(name: str) -> int:
    return INDEXED.index(name) if name in INDEXED else len(INDEXED) + _WIDTHS.index(type_of(name))


def _declared_type(name: str) -> str:
    kind = type_of(name)
    domain = "instant" if kind == "timestamptz" else _DOMAIN_OF.get(name)
    return f"{{schema}}.{domain}" if domain else kind


_WIDTHS: Final = ("uuid", "bigint", "timestamptz", "float8", "integer", "smallint", "boolean", "text", "json")
