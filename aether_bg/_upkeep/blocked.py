"""Reports a blocked event loop: a thread notices that the loop does not answer, and which handler holds it."""

from __future__ import annotations

import sys
import threading
import time
from functools import partial
from types import CodeType, FrameType

import attrs

from aether_bg._kernel.attempt import Attempt
from aether_bg._kernel.shared import Shared
from aether_bg.bridge import Bridge


class LoopWatch:
    """Created on the loop; `stop` ends the thread. Each handler is reported once."""

    def __init__(self, shared: Shared) -> None:
        self._slots, self._problems = shared.slots, shared.problems
        self._silent, self._look = shared.timings.silent, shared.timings.watch
        self._bridge, self._loop = Bridge(), threading.get_ident()
        self._over = threading.Event()
        self._answered = True
        self._told: set[tuple[str, bool]] = set()
        """Reported handlers, and whether it was certain that they held the loop."""
        threading.Thread(target=self._main, name="aether_bg watch", daemon=True).start()

    def stop(self) -> None:
        self._over.set()
        self._slots.begun.set()

    def _main(self) -> None:
        asked, looks = _Reading.now(), 0
        while not self._over.is_set():
            if not self._slots.running:
                self._slots.begun.wait()
            self._slots.begun.clear()
            if self._answered:
                self._answered, asked, looks = False, _Reading.now(), 0
                if not self._bridge.post(self._answer):
                    return
            before = time.monotonic()
            self._over.wait(self._look)
            if time.monotonic() - before > self._look + 1.0 and asked.idle():
                self._answered = True  # the whole process stood still: it was stopped, or the machine slept
            if not self._answered and time.monotonic() - asked.wall > self._silent:
                looks += 1
                self._tell(doubtful=looks == 1)

    def _answer(self) -> None:
        self._answered = True

    def _tell(self, doubtful: bool) -> None:
        """`doubtful`: the first check during this silence; the loop may be about to answer."""
        attempts = [attempt for attempt in list(self._slots.running.values()) if attempt.begun and not attempt.threaded]
        if not attempts:
            return
        frames = _frames(self._loop)
        codes = {frame.f_code for frame in frames}
        holders = [attempt for attempt in attempts if _code_of(attempt) in codes]
        sure = bool(holders)
        if doubtful and not sure:
            return
        fresh = {
            attempt.job.handler_name: attempt
            for attempt in holders or attempts
            if (attempt.job.handler_name, sure) not in self._told
        }
        if not fresh:
            return
        self._told |= {(name, sure) for name in fresh}
        where = f"{frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else "an unknown place"
        who = ", ".join(map(str, fresh.values()))
        does = "holds it" if sure else "ran meanwhile and may hold it"
        first = next(iter(fresh.values())).job
        self._problems.report(
            "event loop", f"it has not answered for {self._silent:g} s, at {where}: {who} {does}. Await what takes "
            "long, or make the handler a plain function, which runs in a thread", first if len(fresh) == 1 else None,
        )  # fmt: skip


@attrs.frozen
class _Reading:
    wall: float
    cpu: float

    @classmethod
    def now(cls) -> _Reading:
        return cls(time.monotonic(), time.process_time())

    def idle(self) -> bool:
        """Whether this process has hardly used the processor since."""
        now = self.now()
        return now.cpu - self.cpu < (now.wall - self.wall) / 2


def _frames(thread: int) -> list[FrameType]:
    """The frames of that thread, innermost first."""
    frames: list[FrameType] = []
    frame = sys._current_frames().get(thread)
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _code_of(attempt: Attempt) -> CodeType | None:
    call: object = attempt.handler.call if attempt.handler is not None else None
    while isinstance(call, partial):
        call = call.func
    code = getattr(call, "__code__", None) or getattr(getattr(call, "__call__", None), "__code__", None)  # noqa: B004
    return code if isinstance(code, CodeType) else None
