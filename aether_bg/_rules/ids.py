"""UUIDv7 (RFC 9562): ids that sort by the time they were made."""

from __future__ import annotations

import os
import threading
import time
from uuid import UUID

_lock = threading.Lock()
_last = 0


def uuid7() -> UUID:
    """Strictly increasing within a process: milliseconds, then twelve bits of their fraction, then chance."""
    global _last  # noqa: PLW0603 - the one counter of this process
    nanoseconds = time.time_ns()
    stamp = (nanoseconds // 1_000_000 << 12) | ((nanoseconds % 1_000_000) << 12) // 1_000_000
    with _lock:
        _last = stamp = max(stamp, _last + 1)
    chance = int.from_bytes(os.urandom(8)) & (1 << 62) - 1
    return UUID(int=(stamp >> 12) << 80 | 7 << 76 | (stamp & 0xFFF) << 64 | 2 << 62 | chance)
