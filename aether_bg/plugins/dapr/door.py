"""A trigger has come, on whichever wire: check it, pass it to the kernel, say whether Dapr may forget it.

The answer comes when the claim is committed; the handler runs afterwards (PROTOCOL C2). Never "not found": Dapr takes
that for a success.
"""

from __future__ import annotations

import hmac
import time
from typing import Final

from aether_bg.errors import SchedulerMisconfigured, shown
from aether_bg.model import Fired
from aether_bg.plugins.dapr.names import NotOurs, read_trigger
from aether_bg.protocols import Kernel

TOKEN_HEADER: Final = "dapr-api-token"
MAX_BODY: Final = 16 * 1024
"""Bytes. Ours are about 200; anything larger is refused before it is read."""

_QUIET: Final = 60.0
_REMEMBERED: Final = 10_000


class Recent:
    """The last so many texts."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._texts: dict[str, None] = {}

    def __contains__(self, text: str) -> bool:
        return text in self._texts

    def add(self, text: str) -> None:
        self._texts[text] = None
        if len(self._texts) > self._most:
            del self._texts[next(iter(self._texts))]

    def discard(self, text: str) -> None:
        self._texts.pop(text, None)


class Door:
    """Where both servers knock. Closed before the start and after the stop: then everything is to come again."""

    def __init__(self, token: str | None) -> None:
        self.kernel: Kernel | None = None
        self._token = None if token is None else token.encode()
        self._told: dict[str, float] = {}
        self.spent = Recent(_REMEMBERED)
        """Names that Dapr has delivered and been told to forget: nothing is left to delete of them."""

    def close(self) -> None:
        self.kernel = None

    def admits(self, tokens: list[bytes]) -> bool:
        """Whether the caller showed the one right token, where there is one to show."""
        if self._token is None:
            return True
        good = len(tokens) == 1 and hmac.compare_digest(tokens[0], self._token)
        if not good:
            self._tell(
                "token",
                SchedulerMisconfigured(
                    "a trigger",
                    "came without the right token and was refused",
                    "Give sidecar and app the same APP_API_TOKEN.",
                ),
            )
        return good

    async def consumes(self, name: str, body: bytes) -> bool:
        """True: done with it, here or for good. False: deliver it again later, perhaps to another replica."""
        if (kernel := self.kernel) is None:
            return False
        try:
            trigger = read_trigger(name, body)
        except NotOurs as problem:  # somebody else's job comes again; a broken one of ours is armed anew by reconcile
            self._tell("foreign", f"a trigger named {shown(name)} was not taken: {problem}")
            return problem.readable
        try:
            fired = await kernel.fire(trigger.store_id, trigger.job_id, trigger.seq, trigger.occurrence)
        except Exception as error:  # the store's trouble, mostly: it comes again
            self._tell(type(error).__name__, error)
            return False
        if fired is Fired.RETRY:
            return False
        self.spent.add(name)
        return True

    def _tell(self, kind: str, problem: BaseException | str) -> None:
        """Report, but the same kind once a minute at most: triggers come by the thousand."""
        now = time.monotonic()
        if self.kernel is not None and now - self._told.get(kind, -_QUIET) >= _QUIET:
            self._told[kind] = now
            self.kernel.report("dapr", problem)
