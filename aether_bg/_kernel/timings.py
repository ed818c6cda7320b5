"""Every length of time that the kernel waits for something, in one value."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Timings:
    """Seconds. An app runs with the defaults; tests pass shorter ones."""

    nap: float = 1.0
    """Longest sleep of a scheduler before it reads the clock again (docs/protocol.md, R4)."""
    backoff: tuple[float, float] = (0.05, 5.0)
    """First and longest wait between tries when the store, or a loop, is in trouble (docs/protocol.md, W2)."""
    recent: float = 60.0
    """How long `health` shows a problem, and how often the same one is reported."""
    early: float = 1.0
    """A trigger that comes at most this early waits for its due time; an earlier one is delivered again
    (docs/protocol.md, C2)."""
    room: float = 5.0
    """How long a trigger waits for a free slot."""
    turn: tuple[float, float] = (0.1, 1.0)
    """First and longest time for which a process fills a limit before others go first (docs/protocol.md, L2)."""
    aside: float = 0.15
    """How long others go first: a little longer than a store takes to notice another process."""
    foreign: float = 600.0
    """How long a trigger of another store is delivered again (docs/protocol.md, D5)."""
    progress: float = 1.0
    """Between two writes of progress, of all attempts together (docs/protocol.md, G1)."""
    look: float = 0.3
    """Between checks of the locks of other owners (docs/protocol.md, P3); three times that while alone and idle."""
    sweep: float = 10.0
    """Between searches for jobs that are overdue."""
    overdue: float = 60.0
    """A job that has been due for this long is armed again, and reported."""
    settling: float = 1.0
    """How long a process may take to start, or to claim what another one has put back, before a missing handler is
    reported."""
    remind: float = 3600.0
    """Between two warnings about the same missing handler or schedule."""
    clocks: float = 1.0
    """Between checks of the clocks."""
    arming: float = 1.0
    """Between searches for jobs that are not armed."""
    arming_backoff: tuple[float, float] = (0.5, 30.0)
    """First and longest wait after the scheduler has refused to arm."""
    silent: float = 2.0
    """An event loop that does not answer for this long counts as blocked."""
    watch: float = 0.5
    """Between checks that the event loop answers."""
    slow_observer: float = 5.0
    """An observer that takes this long is reported as slow."""
    after_cancel: float = 0.5
    """At the stop, between cancelling the running attempts and putting them back."""
    last: float = 1.0
    """After the grace, for each step: recording, arming, observers."""
    retention: float = 60.0
    """Between purges by `retention`."""
