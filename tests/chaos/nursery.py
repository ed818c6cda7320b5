"""Where worker processes come from: a small process that has imported everything and forks one on request.

A forked child is a real process, without the half second that a fresh interpreter needs to import: with kills every
50 to 250 ms it would never get to work. It opens nothing before the fork, and dies with its parent.

Reads requests from stdin, one JSON object a line: {"spawn": spec} or {"signal": n, "pid": pid}. Answers on stdout:
{"pid": pid}, {"exit": pid, "code": code}. Only it reaps its children, so that no signal can reach a reused pid.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import json
import os
import select
import signal
import sys
import traceback
from typing import Any


def main() -> None:
    preload()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    os.set_blocking(wake_read, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(wake_write)
    children: set[int] = set()
    waiting = b""
    say(ready=True)
    while True:
        ready, _, _ = select.select([0, wake_read], [], [])
        if wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake_read, 4096)
        reap(children)
        if 0 not in ready:
            continue
        data = os.read(0, 65536)
        if not data:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            return
        *lines, waiting = (waiting + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if "spawn" in request:
                children.add(spawn(request["spawn"], (wake_read, wake_write)))
            elif request["pid"] in children:
                os.kill(request["pid"], request["signal"])


def preload() -> None:
    for name in ("aether_bg", "aether_bg.plugins.sqlite", "aether_bg._app.blocking", "sqlite_utils", "pytest"):
        importlib.import_module(name)
    importlib.import_module("anyio._backends._asyncio")
    importlib.import_module("chaos.worker")
    if importlib.util.find_spec("psycopg") is not None:
        importlib.import_module("chaos.postgres")


def reap(children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        children.discard(pid)
        say(exit=pid, code=os.waitstatus_to_exitcode(status))


def say(**what: Any) -> None:
    os.write(1, (json.dumps(what) + "\n").encode())


def spawn(spec: dict[str, Any], mine: tuple[int, int]) -> int:
    pid = os.fork()
    if pid:
        say(pid=pid)
        return pid
    code = 70
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no orphans
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for fd in mine:
            os.close(fd)
        null = os.open(os.devnull, os.O_RDONLY)
        out = os.open(spec["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for target, source in ((0, null), (1, out), (2, out)):
            os.dup2(source, target)
        module, _, name = spec["entry"].partition(":")
        getattr(importlib.import_module(module), name)(spec)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 71
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return 0  # never reached


if __name__ == "__main__":
    main()
