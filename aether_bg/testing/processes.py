"""Servers on loopback for tests: one process each, on a port that is free, started, killed and started again."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, Final

from aether_bg.errors import AetherError

HOST: Final = "127.0.0.1"
_TAIL: Final = 2000


def free_ports(count: int) -> list[int]:
    """Different TCP ports that are free on loopback at this moment."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in held]


def listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


class ServerProcess:
    """One process: its command line stays the same over restarts, so that it finds its data again.

    `user`: the user it runs as, if that is not ours (needs root).
    """

    failure: ClassVar[type[AetherError]] = AetherError

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        ready: Callable[[], bool],
        *,
        user: str | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._command, self._env, self._ready, self._user = list(command), dict(env), ready, user
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<{self.name} {'running' if self.running else 'stopped'}>"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, timeout: float = 30.0) -> None:
        """Start it and wait until it answers. Raises `failure` with the end of its log."""
        if self.running:
            return
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, env=self._env, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                **as_user(self._user),
            )  # fmt: skip
        deadline = time.monotonic() + timeout
        while not self._ready():
            if not self.running:
                raise self._failed(f"ended with code {self._process.returncode}")
            if time.monotonic() > deadline:
                self.kill()
                raise self._failed(f"was not ready within {timeout:g} s")
            time.sleep(0.02)

    def stop(self, timeout: float = 10.0) -> None:
        """SIGTERM, and SIGKILL when that takes longer than `timeout` seconds."""
        self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """SIGKILL, as a crash would be."""
        self._end(signal.SIGKILL, 10.0)

    def _end(self, how: signal.Signals, timeout: float) -> None:
        if (process := self._process) is None:
            return
        self._process = None
        process.send_signal(how)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _failed(self, what: str) -> AetherError:
        tail = self.log.read_text(errors="replace")[-_TAIL:]
        return self.failure(self.name, what, f"The end of its log:\n{tail}")


def as_user(user: str | None) -> dict[str, Any]:
    """Arguments of `subprocess` for a process of that user, with that user's groups only; none for our own."""
    if user is None:
        return {}
    import pwd

    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
