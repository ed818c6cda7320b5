"""Where the database is, without its secrets: the password is never part of a repr, an error or a pickle."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final
from urllib.parse import unquote

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from aether_bg.errors import InvalidOption, shown

_SECRET: Final = frozenset(("password", "sslpassword", "oauth_client_secret"))
_SCHEMA: Final = re.compile("[a-z_][a-z0-9_]{0,47}")
_VERIFIED: Final = frozenset(("verify-ca", "verify-full"))
_EXAMPLE: Final = "For example: postgresql://jobs@db.example.org/jobs."


SCHEMA_PARAMETER: Final = "aether_schema"
"""Of a URL: where the tables are. It is ours, and libpq refuses parameters that it does not know."""


class Place:
    """A connection string that shows no secret: neither in its repr, nor where a traceback prints variables."""

    __slots__ = ("_given", "_options", "schema")

    def __init__(self, given: Any, name: str = "dsn") -> None:
        if not isinstance(given, str) or not given.strip():
            kind = "an empty text" if isinstance(given, str) else shown(given)
            raise InvalidOption(kind, "must be a PostgreSQL URL or connection string", _EXAMPLE, name=name)
        self._given, schemas = _without_schema(given)
        if len(schemas) > 1:
            raise InvalidOption(shown(schemas), f"must be given once as {SCHEMA_PARAMETER}", "Keep one.", name="schema")
        self.schema = checked_schema(schemas[0]) if schemas else None
        wrong = False
        try:
            self._options: dict[str, Any] = dict(conninfo_to_dict(self._given))
        except (ProgrammingError, ValueError):
            wrong = True
        if wrong:  # libpq's own words may quote the part that holds the password
            rule = "must be a URL or connection string that libpq can read"
            remedy = f"{_EXAMPLE} Percent-encode special characters of the password, or leave it to a .pgpass file."
            raise InvalidOption("one it cannot read", rule, remedy, name=name)

    @property
    def conninfo(self) -> str:
        """With its secrets, for psycopg alone."""
        return self._given

    @property
    def options(self) -> frozenset[str]:
        """The names of its options."""
        return frozenset(self._options)

    @property
    def without_secrets(self) -> str:
        return make_conninfo(**{name: value for name, value in self._options.items() if name not in _SECRET})

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        from psycopg.pq import Conninfo

        defaults = {
            option.keyword.decode(): (option.val or option.compiled or b"").decode(errors="replace")
            for option in Conninfo.get_defaults()
            if option.keyword in (b"host", b"port", b"dbname", b"user", b"service")
        }
        said = defaults | {name: str(value) for name, value in self._options.items()}
        database = said.get("dbname") or said.get("user") or said.get("service") or "?"
        hosts = (said.get("host") or said.get("hostaddr") or "a local socket").split(",")
        ports = (said.get("port") or "5432").split(",")
        where = [
            f"{host}:{port}" for host, port in zip(hosts, ports * (1 if len(ports) > 1 else len(hosts)), strict=False)
        ]
        return f"{shown(database)[1:-1]} on {shown(', '.join(where))[1:-1]}"

    def __reduce__(self) -> Any:
        return type(self), (self.without_secrets,)


_PARAMETERS: Final = re.compile(r"(postgres(?:ql)?://(?>(?:[^@/]*@)?)[^?]*)\?(.*)", re.DOTALL)
"""A URL, parted as libpq does: a question mark in the password begins no parameters."""


def _without_schema(given: str) -> tuple[str, list[str]]:
    """What libpq may see, and the schemas named besides; what follows an @ may be part of a password."""
    if (found := _PARAMETERS.fullmatch(given)) is None:
        return given, []
    parted = [(parameter.partition("="), parameter) for parameter in found[2].split("&")]
    schemas = [
        re.sub("@.*", "@", unquote(value), flags=re.DOTALL)
        for (name, _, value), _ in parted
        if unquote(name) == SCHEMA_PARAMETER
    ]
    rest = "&".join(text for (name, _, _), text in parted if unquote(name) != SCHEMA_PARAMETER)
    return (f"{found[1]}?{rest}" if rest else found[1], schemas) if schemas else (given, [])


def checked_schema(schema: Any) -> str:
    if not isinstance(schema, str) or not _SCHEMA.fullmatch(schema):
        rule = "must be 1 to 48 lower-case letters, digits and underscores, and not begin with a digit"
        raise InvalidOption(shown(schema), rule, 'For example: "aether_bg".', name="schema")
    if schema.startswith("pg_") or schema == "information_schema":
        raise InvalidOption(shown(schema), "must not be one of PostgreSQL's own", 'For example: "jobs".', name="schema")
    return schema


def is_local(host: str | None) -> bool:
    """Whether it is a socket, or this machine's loopback."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def protection(host: str | None, encrypted: bool, sslmode: str) -> str:
    """What TLS does for a connection to this host, in words."""
    if is_local(host):
        return "local"
    if not encrypted:
        return "plain"
    return "verified" if sslmode in _VERIFIED else "encrypted, not verified"
