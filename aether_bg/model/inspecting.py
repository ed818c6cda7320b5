"""What a look at a store from outside finds: the processes that use it, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal
from uuid import UUID

import attrs
from attrs import field
from attrs.validators import deep_iterable, deep_mapping, instance_of


@attrs.frozen(kw_only=True)
class Process:
    """One owner. `state`: alive; dead (its lock is free); silent (no heartbeat for a minute, by the wall clock).

    `problems`: declarations that it could not apply; `limits`: of its handlers that have one (docs/protocol.md, L1).
    """

    id: UUID
    state: Literal["alive", "dead", "silent"]
    host: str = field(validator=instance_of(str))
    pid: int = field(validator=instance_of(int))
    started_at: datetime = field(validator=instance_of(datetime))
    beat_at: datetime = field(validator=instance_of(datetime))
    handlers: frozenset[str] = field(validator=deep_iterable(instance_of(str)))
    problems: tuple[str, ...] = field(validator=deep_iterable(instance_of(str)))
    limits: Mapping[str, int] = field(factory=dict, validator=deep_mapping(instance_of(str), instance_of(int)))

    @property
    def name(self) -> str:
        return f"process {self.pid} on {self.host}"


@attrs.frozen(kw_only=True)
class Finding:
    """One thing that a check found. A problem needs action, a note may be in order.

    `examples`: ids or texts of the first few of `count`.
    """

    level: Literal["problem", "note"]
    code: str
    message: str
    count: int = 1
    examples: list[str] = field(factory=list)


@attrs.frozen(kw_only=True)
class Report:
    """The result of a check. `schema`: the newest schema step of the store; None if it could not be read."""

    schema: str | None
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return all(finding.level != "problem" for finding in self.findings)
