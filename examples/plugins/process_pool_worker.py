"""One worker process of `process_pool`: runs one call at a time, and dies with the process that started it.

The two talk through a pipe. The worker also holds the reading end of another pipe whose writing end is the parent's
alone: when that ends, the parent is dead, whatever killed it. A thread waits for it; where the system can, a signal
comes as well, since a handler may hold the interpreter's lock for ever, and then no thread of the worker ever runs.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Final

_NAME: Final = "aether_bg worker"


class WorkerError(RuntimeError):
    """Stands for a handler's error that cannot be pickled; its text says what it was."""


def in_worker() -> bool:
    """Whether this process is a worker."""
    return multiprocessing.current_process().name == _NAME


class Worker:
    """The parent's side. Creating it starts the process, which takes some milliseconds here and longer until it
    answers."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), name=_NAME, daemon=True)
        self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def ask(self, request: bytes) -> bytes | None:
        """Lets it run a pickled call; returns the pickled answer, None if it died. Blocks until then."""
        try:
            self._pipe.send_bytes(request)
            return self._pipe.recv_bytes()
        except (EOFError, OSError):
            self._process.join(1)  # it may just be about to end, and how tells more than our signal
            self.kill()
            return None

    def kill(self) -> None:
        """Kills it at once, whatever it does; from any thread."""
        self._process.kill()
        self._process.join(1)

    def reap(self) -> str:
        """Close what a dead worker leaves open; returns how it ended. No call may be in `ask`."""
        code = self._process.exitcode
        self._pipe.close()
        if code is None:  # not even killing helped: the system has it
            return "it does not end"
        self._process.close()
        return f"by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


# -- in the worker ---------------------------------------------------------------------------------


def serve(pipe: Connection) -> None:
    """The worker's loop: one call after the other, until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the app decides what to do
    _die_with_parent()
    while True:
        try:
            request = pipe.recv_bytes()
        except EOFError:
            return
        pipe.send_bytes(_answer(request))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    try:
        import fcntl
    except ImportError:  # Windows
        pass
    else:
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, fcntl.fcntl(parent.sentinel, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=wait, daemon=True).start()  # after the signal is set: it sees what came before


def _answer(request: bytes) -> bytes:
    """(result, None) or (None, error), pickled. A result that cannot be pickled becomes None: the kernel keeps no
    result."""
    try:
        func, args, keywords = pickle.loads(request)
        result = func(*args, **keywords)
    except BaseException as error:
        return _failure(error)
    try:
        return pickle.dumps((result, None))
    except Exception:
        return pickle.dumps((None, None))


def _failure(error: BaseException) -> bytes:
    kind_and_text = traceback.format_exception_only(error)[-1].strip()
    note = "In the worker:\n" + "".join(traceback.format_exception(error, limit=-8))
    try:
        error.add_note(note)
        packed = pickle.dumps((None, error))
        pickle.loads(packed)  # some can be written but not read
    except Exception:
        stand_in = WorkerError(kind_and_text)
        stand_in.add_note(note)
        packed = pickle.dumps((None, stand_in))
    return packed
