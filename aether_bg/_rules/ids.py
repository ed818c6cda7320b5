"""UUIDv7 (RFC 9562): ids that sort by the time they were made."""

from __future__ import annotations

import os
import struct
import threading
import time
from typing import Final
from uuid import UUID

from aether_bg.model.filled import uuid_of

_lock = threading.Lock()
_last = 0
_chances: list[int] = []
"""The machine's random bytes, fetched for many ids at once: each fetch hands over the interpreter lock."""
_AT_ONCE: Final = 256


def uuid7() -> UUID:
    """Strictly increasing within a process: milliseconds, then twelve bits of their fraction, then random bits."""
    global _last  # noqa: PLW0603 - the one counter of this process
    stamp = (time.time_ns() << 12) // 1_000_000
    with _lock:
        if stamp <= _last:
            stamp = _last + 1
        _last = stamp
        if not _chances:
            _chances.extend(struct.unpack(f"{_AT_ONCE}Q", os.urandom(8 * _AT_ONCE)))
        chance = _chances.pop() & (1 << 62) - 1
    return uuid_of((stamp >> 12) << 80 | 7 << 76 | (stamp & 0xFFF) << 64 | 2 << 62 | chance)


def _forked() -> None:
    """Parent and child must not use the same random bytes; and a thread that does not exist here may hold the lock."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _chances.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
