"""What users may ask a store: each question with its fields checked. Raises `InvalidOption`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar
from uuid import UUID

import attrs

from aether_bg._handlers.payloads import check_metadata
from aether_bg._rules import validation as checks
from aether_bg.model import Failures, Query, RunOutcome, Runs

Q = TypeVar("Q")


def query_of(query: Query | None, fields: Mapping[str, Any]) -> Query:
    known = tuple(field.name for field in attrs.fields(Query))
    checks.unknown_options({name: value for name, value in fields.items() if name not in known}, known)
    if query is None or fields:
        query = attrs.evolve(_a(Query, query or Query()), **fields)
    given: dict[str, Any] = {"limit": checks.whole("limit", _a(Query, query).limit, least=1)}
    checks.one_of("order", query.order, ("created", "newest", "due", "ended"))
    for name in ("due_before", "created_after", "created_before", "changed_after"):
        given[name] = checks.instant(name, getattr(query, name))
    for name in ("job_name", "handler_name", "name_prefix", "error_line"):
        checks.text(name, getattr(query, name))
    for name in ("after", "owner", "parents_of", "children_of"):
        if not isinstance(getattr(query, name), UUID | None):
            checks.refuse(name, getattr(query, name), "must be a uuid.UUID", "Pass the id of a JobInfo.")
    given["ids"] = _ids(query.ids)
    if query.holders is not None:
        given["holders"] = _several("holders", query.holders, "of names")
        for holder in given["holders"]:
            checks.text("holders", "" if holder is None else holder)
    if query.status is not None:
        several = (query.status,) if isinstance(query.status, int | str) else query.status
        given["status"] = tuple(checks.status(one) for one in _several("status", several, "of JobStatus"))
    if query.metadata is not None:
        given["metadata"] = check_metadata(query.metadata)
    return attrs.evolve(query, **given)


def runs_of(query: Runs | None) -> Runs:
    asked = _a(Runs, query or Runs())
    checks.text("handler_name", asked.handler_name)
    outcomes = asked.outcomes
    if outcomes is not None:
        outcomes = _several("outcomes", (outcomes,) if isinstance(outcomes, str) else outcomes, "of RunOutcome")
        for one in outcomes:
            checks.one_of("outcomes", one, tuple(RunOutcome))
    return attrs.evolve(
        asked, after=checks.instant("after", asked.after), before=checks.instant("before", asked.before),
        outcomes=outcomes, ids=_ids(asked.ids), limit=checks.whole("limit", asked.limit, least=1),
    )  # fmt: skip


def failures_of(query: Failures | None) -> Failures:
    asked = _a(Failures, query or Failures())
    checks.text("handler_name", asked.handler_name)
    checks.whole("among", asked.among, least=1)
    checks.whole("limit", asked.limit, least=1)
    return asked


def _a(kind: type[Q], value: Any) -> Q:
    if not isinstance(value, kind):
        checks.refuse("query", value, f"must be a {kind.__name__}", f"For example: {kind.__name__}(limit=10).")
    return value


def _ids(ids: Any) -> tuple[UUID, ...] | None:
    if ids is None:
        return None
    given = _several("ids", ids, "of uuid.UUID")
    if not all(isinstance(one, UUID) for one in given):
        checks.refuse("ids", ids, "must all be uuid.UUID", "To look up by name, use get_by_job_name().")
    return given


def _several(option: str, values: Any, what: str) -> tuple[Any, ...]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        checks.refuse(option, values, f"must be a list {what}", "Put it into a list.")
    return tuple(values)
