"""`app.run()`: until a signal, with a watchdog over the stop (docs/protocol.md, S3)."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import anyio

from aether_bg.bridge import Bridge
from aether_bg.errors import UsageError


def run_until_signal(
    app: AbstractAsyncContextManager[object], grace: float, ask: Callable[[], object], hurry: Callable[[], object],
    backend: str,
) -> None:  # fmt: skip
    """`ask`: the stop begins, called in the signal handler; `hurry`: no more grace, called on the loop."""
    if threading.current_thread() is not threading.main_thread():
        raise UsageError("app.run()", "only the main thread receives signals", "Use `async with app:` elsewhere.")
    watchdog = _Watchdog(grace + 1.0)
    try:
        anyio.run(_until_signal, app, watchdog, ask, hurry, backend=backend)
    finally:  # the loop itself may not end, if a task swallows its cancellation
        watchdog.over()


async def _until_signal(
    app: AbstractAsyncContextManager[object], watchdog: _Watchdog, ask: Callable[[], object],
    hurry: Callable[[], object],
) -> None:  # fmt: skip
    """The first signal stops gracefully, a second one skips the grace (docs/protocol.md, S3)."""
    bridge = Bridge()
    stop = anyio.Event()

    def received() -> None:
        if not stop.is_set():
            stop.set()
        else:
            hurry()

    def on_signal(*_: object) -> None:
        watchdog.begin()  # here and not on the loop, which may be blocked
        ask()
        bridge.post(received)

    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    try:
        async with app:
            await stop.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Watchdog:
    """A thread that ends the process when the stop takes longer than `seconds` (docs/protocol.md, S3)."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._begun = False
        self._begin = threading.Lock()  # a signal handler may safely release a plain lock, and do nothing else
        self._begin.acquire()
        self._over = threading.Event()
        threading.Thread(target=self._watch, name="aether_bg watchdog", daemon=True).start()

    def begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._begin.release()

    def over(self) -> None:
        self._over.set()
        self.begin()

    def _watch(self) -> None:
        self._begin.acquire()
        if not self._over.wait(self._seconds):
            _end_hanging()


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _end_hanging() -> None:
    """The watchdog's last report: where the process hangs. Then it ends the process."""
    print("aether_bg: the stop hangs; ending the process. Where it is:", file=sys.stderr)  # noqa: T201
    faulthandler.dump_traceback(all_threads=True)
    sys.stderr.flush()
    os._exit(1)
