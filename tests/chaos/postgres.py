"""A world on a real PostgreSQL: its rows for the judge, its workers, and a network in between that can be cut."""

from __future__ import annotations

import ctypes
import os
import random
import re
import select
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import psycopg

from aether_bg import Aether, PostgresStore, StoreError, StoreUnsure
from aether_bg.testing.postgres import PostgresServer
from chaos import checker
from chaos.harness import Nursery, Process, World
from chaos.plugins import text
from chaos.worker import Spec, Worker, work


class PgWorld(World):
    """`url`: what the workers use; `server`: where the test looks."""

    def __init__(self, folder: Path, nursery: Nursery, url: str, server: PostgresServer, database: str) -> None:
        super().__init__(folder, nursery)
        self.url, self.server, self.database = url, server, database

    def create(self) -> PgWorld:
        async def main() -> None:
            async with Aether(self.server.url(self.database), scheduler="timer").client():
                pass  # makes the tables

        anyio.run(main)
        self.sql("CREATE TABLE effects (job text, occurrence text, token bigint)")
        self.sql("CREATE TABLE orders (name text, wanted text)")
        return self

    def start(self, entry: str = "work", **spec: Any) -> Process:
        return super().start(entry, **{"url": self.url, **spec})

    def sql(self, query: str, *params: Any) -> list[tuple[Any, ...]]:
        return self.server.execute(
            re.sub(r"\baether_(jobs|runs|owners)\b", r"aether_bg.\1", query), params, database=self.database
        )

    def run_dry(self, producer: Process, *workers: Process) -> None:
        """Nothing more is enqueued; all jobs end, and the workers live."""
        producer.end()
        self.until(
            lambda: self.sql("SELECT count(*) FROM aether_jobs WHERE status < 2") == [(0,)], 60, "the end of all"
        )
        assert all(worker.alive for worker in workers)
        self.end_all()

    def check(self, **how: Any) -> Counter[str]:
        return checker.check(self.history, self.snapshot(), **how)

    def snapshot(self) -> checker.Snapshot:
        with psycopg.connect(self.server.url(self.database), row_factory=psycopg.rows.dict_row) as conn:
            conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            jobs = [_plain(row) for row in conn.execute("SELECT * FROM aether_bg.jobs")]
            runs = [_plain(row) for row in conn.execute("SELECT * FROM aether_bg.runs ORDER BY job_id, token, gap")]
            effects = [tuple(row.values()) for row in conn.execute("SELECT job, occurrence, token FROM effects")]
        by_id = {row["id"]: row for row in jobs}
        return checker.Snapshot(jobs=by_id, runs=runs, effects=effects, integrity=[])

    def backends(self, where: str = "true") -> list[int]:
        """Process numbers of the server's sessions in this database, but for our own."""
        ours = "datname = current_database() AND pid <> pg_backend_pid()"
        return [pid for (pid,) in self.sql(f"SELECT pid FROM pg_stat_activity WHERE {ours} AND {where}")]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """As the judge knows values of a file."""
    return {
        name: text(value) if isinstance(value, datetime) else str(value) if isinstance(value, UUID) else value
        for name, value in row.items()
    }


# -- roles ---------------------------------------------------------------------------------------


def produce(spec: Spec) -> None:
    """Enqueue until killed, whatever the server does; write down what was acknowledged, refused, or not answered."""
    worker = Worker(spec)

    async def main() -> None:
        async with worker.app.client() as jobs:
            worker.history.write("ready")
            for number in range(spec.get("count", 10**9)):
                name, kind = f"{spec['prefix']}-{number}", ("quick", "effect")[number % 2]
                try:
                    await worker.put(kind, name, via=jobs, payload={"ms": worker.random.randrange(spec.get("ms", 30))})
                except StoreUnsure:
                    worker.history.write("unsure", name=name)
                except StoreError as error:
                    worker.history.write("refused", name=name, error=type(error).__name__)
                await anyio.sleep(worker.random.random() * spec.get("pause", 0.02))

    anyio.run(main)


def work_in_namespace(spec: Spec) -> None:
    """On a machine of its own, as far as the network is concerned."""
    namespace = os.open(f"/run/netns/{spec['namespace']}", os.O_RDONLY)
    assert ctypes.CDLL(None, use_errno=True).setns(namespace, 0x40000000) == 0, os.strerror(ctypes.get_errno())
    work(spec)


def migrate(spec: Spec) -> None:
    anyio.run(PostgresStore(spec["url"]).migrate)


# -- a network that can be cut -------------------------------------------------------------------


class Network:
    """A TCP proxy on loopback. `chance`: of each packet to the server, that its connection is cut there: half of the
    cuts before the packet arrives, half after it has, so that only the answer is lost. `hold`: nothing passes to
    clients whose connection has said LISTEN."""

    def __init__(self, port: int, seed: int = 1) -> None:
        self._target, self._random = port, random.Random(seed)
        self.chance, self.cuts, self.hold = 0.0, 0, False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
                except OSError:
                    client.close()
                    continue
                self._pairs.append((client, server))
                thread = threading.Thread(target=self._pass, args=(client, server), daemon=True)
                thread.start()
                self._threads.append(thread)

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        held = False
        with client, server, suppress(OSError, ValueError):
            while True:
                ready, _, _ = select.select([client] if held and self.hold else [client, server], [], [], 0.1)
                for one in ready:
                    data = one.recv(65536)
                    if not data:
                        return
                    if one is client:
                        held = held or b"LISTEN" in data
                        if self._random.random() < self.chance:
                            self.cuts += 1
                            if self._random.random() < 0.5:
                                server.sendall(data)
                                time.sleep(0.05)  # the server has done it by then
                            return
                    (server if one is client else client).sendall(data)

    def cut(self) -> None:
        """All connections, now."""
        for pair in self._pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut()
        for thread in self._threads[1:]:
            thread.join(5)


@contextmanager
def network(port: int) -> Iterator[Network]:
    made = Network(port)
    try:
        yield made
    finally:
        made.close()


def through(url: str, port: int) -> str:
    """The same URL by another port."""
    head, _, rest = url.rpartition(":")
    return f"{head}:{port}/{rest.partition('/')[2]}"


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """These processes are frozen (SIGSTOP)."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
