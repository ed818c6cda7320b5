"""Stores derive columns from the types of rows, which other libraries may have resolved before."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

RESOLVE = """
import attrs
from aether_bg import JobInfo, JobRun
from aether_bg.model import Change, Definition
from aether_bg.model import claims, job, progress, writes
names = {name: value for module in (writes, claims, progress, job) for name, value in vars(module).items()}
for cls in (JobInfo, JobRun, Change, Definition):
    attrs.resolve_types(cls, globalns=names)
assert attrs.fields(JobInfo).seq.type is int
"""
SQLITE = """
from aether_bg.plugins.sqlite import rows
print({column.name: sorted(map(str, column.types)) for column in (*rows._JOB, *rows._RUN)})
"""
POSTGRES = "from aether_bg.plugins.postgres import columns, schema\nprint(columns._TYPES, schema._INITIAL)"


def shown(program: str) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_columns_are_the_same_where_somebody_has_resolved_types() -> None:
    show = SQLITE if find_spec("psycopg") is None else SQLITE + POSTGRES
    assert shown(RESOLVE + show) == shown(show)
