"""PostgreSQL: a machine is cut off from the server, in a network namespace of its own. Row 109 of the table."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aether_bg.testing.postgres import PostgresServer, find_postgres, require_postgres
from aether_bg.testing.postgres_processes import unprivileged
from chaos.harness import Nursery

psycopg = pytest.importorskip("psycopg")
from chaos.postgres import PgWorld  # noqa: E402


def ip(*arguments: str, check: bool = True) -> bool:
    return subprocess.run(["ip", *arguments], check=check, capture_output=True).returncode == 0


class Elsewhere(PostgresServer):
    """A server in a namespace: by TCP from there only, by a socket from everywhere."""

    def __init__(self, folder: Path, namespace: str) -> None:
        super().__init__(folder)
        self._settings["unix_socket_directories"] = str(folder)
        if (user := self._user) is not None:
            ids = pwd.getpwnam(user)
            become = ["setpriv", f"--reuid={ids.pw_uid}", f"--regid={ids.pw_gid}", "--clear-groups"]
            self._serve = ["ip", "netns", "exec", namespace, *become, *self._command]
        self.folder = folder

    def _answers(self) -> bool:
        command = [find_postgres("pg_isready"), "-q", "-h", str(self.folder), "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def begin(self) -> None:
        self.create()
        self._command, self._user = self._serve, None
        self.start()

    def url(self, database: str = "postgres", **how: Any) -> str:
        return f"postgresql://postgres:{self.password}@/{database}?host={self.folder}&port={self.port}"


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"aether-{os.getpid()}"
    if os.geteuid() != 0 or shutil.which("ip") is None or not ip("netns", "add", name, check=False):
        pytest.skip("needs root and iproute2: apt-get install iproute2")
    ip("netns", "exec", name, "ip", "link", "set", "lo", "up")
    yield name
    ip("netns", "del", name)


@pytest.fixture
def pg(namespace: str, tmp_path: Path, nursery: Nursery) -> Iterator[PgWorld]:
    require_postgres()
    with tempfile.TemporaryDirectory(prefix="aether_bg-postgres-", ignore_cleanup_errors=True) as name:
        if (user := unprivileged()) is not None:
            shutil.chown(name, user)
        server = Elsewhere(Path(name), namespace)
        server.begin()
        world = PgWorld(tmp_path / "world", nursery, server.url(), server, "postgres").create()
        yield world
        world.end_all()
        server.kill()


@pytest.mark.parametrize("fence", [False, True], ids=["open", "fenced"])
@pytest.mark.row(109, small=1, full=3)
def test_a_machine_that_is_cut_off(
    pg: PgWorld, namespace: str, count: int, note: Callable[[str], None], fence: bool
) -> None:
    """Both sides live. The other process takes the job; the first one gives it up once it is back, or before with
    `fence`. Only one outcome counts."""
    inside = f"postgresql://postgres:{pg.server.password}@127.0.0.1:{pg.server.port}/postgres"
    how: dict[str, Any] = {"options": {"lease": 5.0}, "store": {"fence": fence}}
    for number in range(count):
        one, name = (
            pg.ready("chaos.postgres:work_in_namespace", url=inside, namespace=namespace, **how),
            f"hold-{number}",
        )
        pg.start("put", enqueue=[{"handler": "hold", "name": name}]).wait(30)
        pg.until(lambda name=name: pg.find("start", name=name), what="its start")
        other, began = pg.ready(**how), time.time()
        ip("netns", "exec", namespace, "ip", "link", "set", "lo", "down")
        second = pg.until(lambda name=name: pg.find("start", name=name, attempt=2), 40, "the second attempt")[0]
        pg.until(lambda name=name: pg.find("end", name=name, attempt=2), 30, "its end")
        time.sleep(1.0)
        if not fence:
            assert not pg.find("end", name=name, attempt=1), "nothing tells it before it is back"
        ip("netns", "exec", namespace, "ip", "link", "set", "lo", "up")
        first = pg.until(lambda name=name: pg.find("end", name=name, attempt=1), 40, "the end of the first")[0]
        note(f"taken after {second['at'] - began:.1f} s, given up after {first['at'] - began:.1f} s")
        if fence:
            assert first["at"] < second["at"], "both ran at once"
        assert first["how"] != "returned"
        one.end()
        other.end()
    pg.check()
