"""Many jobs at once: what equal jobs share is checked and computed once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from types import FunctionType
from typing import Any, Final

from aether_bg._app.admission import Admission, given_name
from aether_bg._handlers.payloads import check_metadata
from aether_bg._rules import validation as checks
from aether_bg._rules.changes import Moment
from aether_bg._rules.ids import uuid7
from aether_bg.model import JobInfo
from aether_bg.model.filled import filled

_COMPARED: Final = frozenset((str, int, float, bool, type(None), timedelta, FunctionType))
"""Types whose equal values mean the same to an enqueue; others, for example datetimes, are checked each time."""
_MOST: Final = 1000
"""How many kinds of jobs are remembered."""


class Alike:
    """Makes jobs as `Admission.job` does, from the arguments of an enqueue by name."""

    def __init__(self, admission: Admission, moment: Moment) -> None:
        self._admission, self._moment = admission, moment
        self._first: dict[Any, dict[str, Any]] = {}
        """The fields of the first job of each kind, by what the jobs share."""

    def job(self, arguments: Mapping[str, Any]) -> JobInfo:
        """Raises an `InputError`."""
        key = _key(arguments)
        first = None if key is None else self._first.get(key)
        return self._made(arguments, key) if first is None else self._like(first, arguments)

    def _made(self, arguments: Mapping[str, Any], key: Any) -> JobInfo:
        job = self._admission.plain_job(self._moment, **arguments)
        if key is not None and not job.jitter and len(self._first) < _MOST:
            self._first[key] = dict(vars(job))
        return self._admission.stamped(job)

    def _like(self, first: dict[str, Any], arguments: Mapping[str, Any]) -> JobInfo:
        admission, handler, name, job_id = self._admission, first["handler_name"], arguments["job_name"], uuid7()
        return admission.stamped(filled(JobInfo, first | {
            "id": job_id, "job_name": given_name(handler, job_id) if name is None else checks.name(name, "job"),
            "payload": admission.payload(arguments["handler"], handler, arguments["payload"]),
            "extra_properties": check_metadata(arguments["metadata"]),
        }))  # fmt: skip


def _key(arguments: Mapping[str, Any]) -> Any:
    """What equal jobs have in common. None: they cannot be compared."""
    shared = dict(arguments)
    named = shared.pop("job_name") is not None
    del shared["payload"], shared["metadata"]
    types = tuple(map(type, shared.values()))
    return (named, types, *shared.items()) if _COMPARED.issuperset(types) else None
