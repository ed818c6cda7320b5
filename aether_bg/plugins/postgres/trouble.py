"""What PostgreSQL and psycopg raise, as errors of ours: what is wrong, and whether it may be tried again."""

from __future__ import annotations

import re
from typing import Final

import psycopg

from aether_bg.errors import (
    AetherError,
    SchemaMissing,
    StoreBroken,
    StoreBusy,
    StoreContended,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreRefused,
    StoreUnreachable,
    StoreUnsure,
    shown,
)

STALE: Final = "AE001"
"""SQLSTATE of our own: a guard did not hold (see `schema`)."""
CHILDREN: Final = "AE002"
"""And another: jobs wait for the end of this one, which takes more than a statement."""
_ADMIN: Final = "Ask the server's administrator."
_LOST: Final = ("08", "57P01", "57P02", "57P03", "57P05")
"""SQLSTATEs of a connection that is lost or refused; others have none at all."""


def is_lost(error: BaseException) -> bool:
    """Whether the connection is gone, so that no answer will come."""
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    return error.sqlstate is None or error.sqlstate.startswith(_LOST)


_PREAMBLE: Final = re.compile(r"connection (?:failed|is bad): (?:connection to server at .{1,300}? failed: )?")
"""Of a refused connection: what the error says of the place anyway."""


def first_line(error: BaseException) -> str:
    lines = _PREAMBLE.sub("", str(error).strip(), count=1).splitlines()
    return shown(lines[0])[1:-1] if lines else type(error).__name__


def translate(error: psycopg.Error, where: str) -> AetherError:
    """`where`: the store, in words. For errors of our own statements; nothing of them has happened, unless the
    connection was lost on the way (see `unsure`)."""
    state, said = error.sqlstate or "", f"PostgreSQL says {error.sqlstate}, {first_line(error)}"
    if state in ("53100", "53200"):
        what = "no space is left for it" if state == "53100" else "the server has no memory left"
        return StoreFull(where, f"{what} ({said})", "Free some.")
    if state == "25006":
        return StoreReadOnly(
            where, "this server only reads: it is a standby, or set to read only",
            "Name all servers in the URL, with target_session_attrs=read-write.",
        )  # fmt: skip
    if state == "53300":
        return StoreBusy(
            where, f"the server accepts no more connections ({said})", "Raise max_connections, or use a pooler."
        )
    if state in ("55P03", "40P01"):
        return StoreContended(where, f"another transaction holds a row of it ({said})", "It can be tried again.")
    if state.startswith("40") or state in ("57014", "55006"):
        return StoreBusy(where, said, "Nothing was changed; it can be tried again.")
    if state.startswith("28") or state == "42501":
        remedy = "Check the role, its password and pg_hba.conf." if state != "42501" else _grants()
        return StoreDenied(where, said, remedy)
    if state == "3D000":
        return StoreError(where, said, "Create the database, or name another one.")
    if state in ("3F000", "42P01", "42703", "42883"):
        return missing(where, said)
    if is_lost(error):
        return unreachable(where, error)
    if state.startswith(("58", "XX", "F0")):
        return StoreBroken(where, f"the server has failed ({said})", _ADMIN)
    if state.startswith(("22", "23")) or isinstance(error, psycopg.DataError):
        return StoreRefused("a write", f"a constraint of the schema refused it ({said})", "Run `aether-bg check`.")
    return StoreError(where, said, "See the server's log.")


_REFUSED: Final = (
    (re.compile("password authentication failed|no password supplied|no pg_hba.conf entry|role .* does not exist|"
                "authentication failed|not permitted to log in|certificate|does not support SSL"), StoreDenied,
     "Check the role, its password, sslmode, the certificates and pg_hba.conf."),
    (re.compile('database .* does not exist'), StoreError, "Create the database, or name another one."),
    (re.compile("too many (clients|connections)|remaining connection slots"), StoreBusy,
     "Raise max_connections, or use a pooler."),
)  # fmt: skip
"""A refused connection has no SQLSTATE, only words."""


def refused(error: psycopg.Error, where: str) -> AetherError:
    """No connection could be made."""
    if error.sqlstate is None:
        for words, kind, remedy in _REFUSED:
            if words.search(str(error)):
                return kind(where, f"the server refuses the connection ({first_line(error)})", remedy)
        return unreachable(where, error)
    return translate(error, where)


def passes(problem: AetherError) -> bool:
    """Whether another try to connect may succeed."""
    return isinstance(problem, StoreUnreachable | StoreReadOnly | StoreBusy)


def _grants() -> str:
    return "Grant what docs/how-to/postgres.md lists to the role of this app."


def missing(where: str, what: str) -> SchemaMissing:
    return SchemaMissing(where, f"it lacks tables of this version of aether_bg ({what})", "Run `aether-bg migrate`.")


def unreachable(where: str, error: BaseException | None = None) -> StoreUnreachable:
    said = f" ({first_line(error)})" if error is not None else ""
    return StoreUnreachable(where, f"its server cannot be reached{said}", "It is tried again by itself.")


def unsure(where: str) -> StoreUnsure:
    return StoreUnsure(where, "the answer to a write was lost", "Whether it happened is unknown: do the same again.")
