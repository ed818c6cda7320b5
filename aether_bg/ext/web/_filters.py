"""The filter of the list of jobs: from the fields of a form to a `Query`, and back to a link."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

import attrs

from aether_bg.model import JobStatus, Query

STATUSES: Final = tuple(status.name.lower() for status in JobStatus)
_LONGEST: Final = 1000


@attrs.frozen(kw_only=True)
class Filter:
    """`status`: one of the five names; `name`: how the job's name begins; `error`: the first line of its error."""

    status: str = ""
    handler: str = ""
    name: str = ""
    error: str = ""
    paused: bool = False
    recurring: bool = False

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> Filter:
        """Unknown fields and statuses are left out. An error without a status is one of failed jobs."""
        status = fields.get("status", "")
        text: dict[str, Any] = {key: _text(fields.get(key, "")) for key in ("handler", "name", "error")}
        flags: dict[str, Any] = {key: bool(fields.get(key)) for key in ("paused", "recurring")}
        status = status if status in STATUSES else ""
        return cls(status=status or ("failed" if text["error"] else ""), **text, **flags)

    @property
    def by_end(self) -> bool:
        """Whether those that ended last come first. Recurring ones have an index of their own, in the order of ids."""
        return self.status in STATUSES[2:] and not self.recurring

    def query(self, **more: Any) -> Query:
        """Newest first; ended ones by their end."""
        found = Query(
            status=(JobStatus[self.status.upper()],) if self.status else None, handler_name=self.handler or None,
            name_prefix=self.name or None, error_line=self.error or None, paused=self.paused, recurring=self.recurring,
            order="ended" if self.by_end else "newest",
        )  # fmt: skip
        return attrs.evolve(found, **more)

    def fields(self) -> dict[str, str]:
        """The fields with which a form or link repeats this filter."""
        given = attrs.asdict(self)
        return {name: "1" if value is True else value for name, value in given.items() if value}

    def link(self, **more: Any) -> str:
        """The query of a URL."""
        fields = {**self.fields(), **{name: str(value) for name, value in more.items() if value}}
        return f"?{urlencode(fields)}" if fields else "?"

    def words(self) -> str:
        parts = [self.status or "all"]
        parts += [word for word, given in (("paused", self.paused), ("recurring", self.recurring)) if given]
        told = " ".join(parts) + " jobs"
        told += f" of {self.handler}" if self.handler else ""
        told += f" whose names begin with {self.name}" if self.name else ""
        return told + (f" that failed with “{self.error}”" if self.error else "")


def _text(value: str) -> str:
    """Without characters that no store keeps: lone surrogates."""
    return value[:_LONGEST].encode(errors="ignore").decode()


def job_id(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None
