"""The programs of a PostgreSQL on loopback: where they are, one server, a standby of it, one pgbouncer.

Every port is free when it is chosen, every process is ended by its handle and can be stopped, killed and started again
with the same port and the same data. `postgres` makes clusters of them.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import quote

from aether_bg.errors import AetherError
from aether_bg.testing.processes import HOST, ServerProcess, as_user, free_ports, listens

PoolMode = Literal["transaction", "session", "statement"]
ROLE: Final = "postgres"
_SETTINGS: Final = {
    "fsync": "off", "max_connections": "200", "listen_addresses": HOST, "wal_level": "replica",
    "max_wal_senders": "5", "max_prepared_transactions": "0", "shared_buffers": "64MB", "autovacuum_naptime": "10s",
}  # fmt: skip


class PostgresMissing(AetherError):
    """A program of PostgreSQL, pgbouncer or the driver psycopg is not installed."""

    def __init__(self, what: str, package: str, install: str = "apt-get install") -> None:
        super().__init__(what, "was not found", f"`{install} {package}` brings it.")


class PostgresStartFailed(AetherError):
    """A process ended, or did not become ready in time. The message ends with the tail of its log."""


PROGRAMS: Final = "AETHER_POSTGRES_BIN"
"""A folder of programs of PostgreSQL, to test on another version than the newest here. What it lacks is looked for
elsewhere."""


def find_postgres(name: str) -> str:
    """The path of a program of the server: in the folder that AETHER_POSTGRES_BIN names, or else of the newest version
    in /usr/lib/postgresql/*/bin, pg_config's folder, PATH. Raises `PostgresMissing`."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: _version(path.parent.name))
    if config := shutil.which("pg_config"):
        said = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        folders.insert(0, Path(said.stdout.strip() or os.devnull))
    if wanted := os.environ.get(PROGRAMS):
        folders.append(Path(wanted))
    for folder in reversed(folders):
        if os.access(folder / name, os.X_OK):
            return str(folder / name)
    if found := shutil.which(name):
        return found
    raise PostgresMissing(f"PostgreSQL's {name!r}", "postgresql")


def find_pgbouncer() -> str:
    """The path of pgbouncer. Raises `PostgresMissing`."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise PostgresMissing("pgbouncer", "pgbouncer")
    return found


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))


def unprivileged() -> str | None:
    """The user that the servers run as, where we are root, as whom they refuse to run; None otherwise."""
    if os.geteuid() != 0:
        return None
    known = {user.pw_name for user in pwd.getpwall()}
    return next(user for user in ("postgres", "nobody") if user in known)


class PostgresServer(ServerProcess):
    """A server in a folder of its own. Superuser `postgres`, with a password that nothing else has.

    `settings`: of postgresql.conf. By default `fsync` is off: what is committed outlives `kill`, but not the machine.
    """

    failure = PostgresStartFailed

    def __init__(
        self, folder: Path, name: str = "PostgreSQL", *, settings: Mapping[str, str] | None = None,
        password: str | None = None,
    ) -> None:  # fmt: skip
        self.port = free_ports(1)[0]
        self.password = password or secrets.token_hex(12)
        self.data = folder / f"data-{self.port}"
        self._settings = {**_SETTINGS, **(settings or {}), "port": str(self.port), "unix_socket_directories": ""}
        command = [find_postgres("postgres"), "-D", str(self.data)]
        log, user = folder / f"postgres-{self.port}.log", unprivileged()
        super().__init__(name, command, _environment(), log, self._answers, user=user)

    def _answers(self) -> bool:
        command = [find_postgres("pg_isready"), "-q", "-h", HOST, "-p", str(self.port), "-t", "1"]
        return subprocess.run(command, env=_environment(), check=False).returncode == 0

    def url(self, database: str = "postgres", *, role: str = ROLE, password: str | None = None) -> str:
        """A connection URL with the password in it."""
        return f"postgresql://{role}:{quote(password or self.password)}@{HOST}:{self.port}/{database}"

    # -- data ------------------------------------------------------------------------------------

    def create(self) -> Self:
        """Make an empty cluster."""
        secret = self.data.with_suffix(".password")
        secret.touch(0o644)
        secret.write_text(self.password, encoding="utf-8")
        try:
            self._run(
                "initdb", "-D", str(self.data), "-U", ROLE, f"--pwfile={secret}", "--auth=scram-sha-256", "-E", "UTF8",
                "--no-locale", "--no-sync",
            )  # fmt: skip
        finally:
            secret.unlink()
        self._configure()
        return self

    def copy(self, primary: PostgresServer) -> Self:
        """Become a standby of `primary`, which runs: copy its data, and follow it under our name in
        `synchronous_standby_names`. What was here is deleted."""
        self.stop()
        shutil.rmtree(self.data, ignore_errors=True)
        self.password = primary.password
        source = f"host={HOST} port={primary.port} user={ROLE} application_name={self.name}"
        self._run(
            "pg_basebackup", "-D", str(self.data), "-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", source,
            PGPASSWORD=self.password,
        )  # fmt: skip
        self._configure()
        return self

    def _configure(self) -> None:
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in self._settings.items())

    # -- life ------------------------------------------------------------------------------------

    def start(self, timeout: float = 60.0) -> None:
        """Start it and wait until it takes connections. Raises `PostgresStartFailed`."""
        super().start(timeout)

    def stop(self, timeout: float = 30.0, *, mode: Literal["smart", "fast"] = "fast") -> None:
        """End it in order: `fast` ends the sessions, `smart` waits for their clients."""
        self._end(signal.SIGINT if mode == "fast" else signal.SIGTERM, timeout)

    def kill(self) -> None:
        """A crash (`pg_ctl stop -m immediate`): no checkpoint, no clean end of sessions. The next start recovers from
        the log."""
        self._end(signal.SIGQUIT, 10.0)

    def restart(self) -> None:
        self.stop()
        self.start()

    def promote(self, timeout: float = 60.0) -> None:
        """Make a standby the primary."""
        self._run("pg_ctl", "-D", str(self.data), "-w", "-t", f"{timeout:.0f}", "promote")

    # -- SQL -------------------------------------------------------------------------------------

    def execute(self, sql: str, params: Sequence[Any] = (), *, database: str = "postgres") -> list[tuple[Any, ...]]:
        """One statement as superuser, on a connection of its own, outside of a transaction; its rows."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(sql.encode(), params or None)
            return cursor.fetchall() if cursor.description else []

    def set(self, **settings: str | None) -> None:
        """Change settings that take effect without a restart; None: back to what it was."""
        for name, value in settings.items():
            self.execute(f"ALTER SYSTEM RESET {name}" if value is None else f"ALTER SYSTEM SET {name} = '{value}'")
        self.execute("SELECT pg_reload_conf()")

    def _run(self, program: str, *arguments: str, **env: str) -> None:
        command = [find_postgres(program), *arguments]
        done = subprocess.run(
            command, env=_environment(**env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False, cwd=self.data.parent, **as_user(self._user),
        )  # fmt: skip
        if done.returncode:
            raise PostgresStartFailed(program, f"ended with code {done.returncode}", done.stdout[-2000:])


class PgBouncer(ServerProcess):
    """A pooler in front of a server. Its databases have the server's names."""

    failure = PostgresStartFailed

    def __init__(
        self, folder: Path, server: PostgresServer, mode: PoolMode = "transaction", settings: Mapping[str, str] = {}
    ) -> None:
        self.port, self._server, user = free_ports(1)[0], server, unprivileged()
        config, users = folder / f"pgbouncer-{self.port}.ini", folder / f"pgbouncer-{self.port}.users"
        options = {
            "listen_addr": HOST, "listen_port": self.port, "unix_socket_dir": "", "pool_mode": mode,
            "auth_type": "scram-sha-256", "auth_file": users, "default_pool_size": 20, "max_client_conn": 500,
            **settings,
        }  # fmt: skip
        lines = "".join(f"{name} = {value}\n" for name, value in options.items())
        for path, text in (
            (config, f"[databases]\n* = host={HOST} port={server.port}\n[pgbouncer]\n{lines}"),
            (users, f'"{ROLE}" "{server.password}"\n'),
        ):
            path.touch(0o600)
            path.write_text(text, encoding="utf-8")
            if user is not None:
                shutil.chown(path, user)
        ready = partial(listens, self.port)
        log = folder / f"pgbouncer-{self.port}.log"
        super().__init__(f"pgbouncer ({mode})", [find_pgbouncer(), str(config)], _environment(), log, ready, user=user)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{ROLE}:{quote(self._server.password)}@{HOST}:{self.port}/{database}"


def _environment(**extra: str) -> dict[str, str]:
    """This process's environment without what libpq would take from it."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return ours | {"LC_ALL": "C", "PGCONNECT_TIMEOUT": "5"} | extra
