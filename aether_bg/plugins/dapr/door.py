"""Handles a trigger, from gRPC or HTTP: checks it, passes it to the kernel, and says whether Dapr may forget it.

The answer comes when the claim is committed; the handler runs afterwards (docs/protocol.md, C2). It is never "not
found": Dapr takes that for a success.
"""

from __future__ import annotations

import hmac
import time
from typing import Final

from aether_bg.errors import SchedulerMisconfigured, shown
from aether_bg.model import Fired
from aether_bg.plugins.dapr.names import PROBE, NotOurs, read_trigger
from aether_bg.protocols import Kernel

TOKEN_HEADER: Final = "dapr-api-token"
MAX_BODY: Final = 16 * 1024
"""Bytes. Ours are about 200; anything larger is refused before it is read."""

_QUIET: Final = 60.0
_REMEMBERED: Final = 10_000


class Recent:
    """The last `most` texts, and when each was added (monotonic seconds)."""

    def __init__(self, most: int = _REMEMBERED) -> None:
        self._most = most
        self._texts: dict[str, float] = {}

    def __contains__(self, text: str) -> bool:
        return text in self._texts

    def age(self, text: str) -> float | None:
        """Seconds since it was last added; None if it is not known."""
        added = self._texts.get(text)
        return None if added is None else time.monotonic() - added

    def add(self, text: str) -> None:
        self._texts.pop(text, None)
        self._texts[text] = time.monotonic()
        if len(self._texts) > self._most:
            del self._texts[next(iter(self._texts))]

    def discard(self, text: str) -> None:
        self._texts.pop(text, None)


class Door:
    """Receives triggers. Closed before the start and after the stop: then everything is to be delivered again."""

    def __init__(self, token: str | None) -> None:
        self.kernel: Kernel | None = None
        self.guarded = token is not None
        self._token = None if token is None else token.encode()
        self._told: dict[str, float] = {}
        self.spent = Recent()
        """Names that Dapr has delivered and may forget: there is nothing left to delete."""
        self.handed_back = Recent()
        """Names that Dapr has delivered and must deliver again."""
        self.came = 0
        """Triggers of ours since the start."""
        self.refused = 0
        """Triggers refused for their token since the last good one."""
        self.astray = 0
        """Requests answered 404 by the HTTP route since the last trigger."""
        self.astray_path = ""
        self.exposed = False
        """A trigger has come from beyond this machine, and there is no token to check."""

    def open(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.came = self.refused = self.astray = 0

    def close(self) -> None:
        self.kernel = None

    def admits(self, tokens: list[bytes]) -> bool:
        """Whether the caller sent the right token, if one is required."""
        if self._token is None:
            return True
        good = len(tokens) == 1 and hmac.compare_digest(tokens[0], self._token)
        if not good:
            self.refused += 1
            self._tell(
                "token",
                SchedulerMisconfigured(
                    "a trigger",
                    "came without the right token and was refused",
                    "Give sidecar and app the same APP_API_TOKEN.",
                ),
            )
        return good

    def went_astray(self, path: str) -> None:
        """The HTTP route has answered 404."""
        self.astray += 1
        self.astray_path = path

    async def consumes(self, name: str, body: bytes) -> bool:
        """True: done with it, here or for good. False: deliver it again later, perhaps to another replica."""
        if (kernel := self.kernel) is None:
            return False
        if name == PROBE:
            self._reached()
            return True
        try:
            trigger = read_trigger(name, body)
        except NotOurs as problem:  # others' jobs come again; a broken one of ours is armed again by reconcile
            self._tell("foreign", f"a trigger named {shown(name)} was not taken: {problem}")
            return problem.readable
        self._reached()
        try:
            fired = await kernel.fire(trigger.store_id, trigger.job_id, trigger.seq, trigger.occurrence)
        except Exception as error:  # the store's trouble, mostly: it comes again
            self._tell(type(error).__name__, error)
            fired = Fired.RETRY
        if fired is Fired.RETRY:
            self.handed_back.add(name)
            return False
        self.spent.add(name)
        return True

    def _reached(self) -> None:
        self.came += 1
        self.refused = self.astray = 0

    def likely_cause(self) -> str:
        """Why Dapr may not deliver due jobs, as far as this process can see."""
        if self.refused:
            return (
                f"{self.refused} triggers were refused, because their dapr-api-token is missing or wrong: give the "
                "sidecar and the app the same APP_API_TOKEN"
            )
        if self.astray:
            return (
                f"the HTTP route answered {self.astray} requests with 404, the last for {shown(self.astray_path)}: "
                "Dapr posts triggers to /job/<name> on the app port"
            )
        if not self.came:
            return (
                "Dapr has brought no trigger since the start: check that the sidecar's --app-port is this app's, and, "
                "with app health checks on, that GET /healthz is answered with 200"
            )
        return "Dapr brings other triggers, but not these: its scheduler may be late, or has lost them"

    def _tell(self, kind: str, problem: BaseException | str) -> None:
        """Reports a problem, but each kind at most once a minute: triggers come by the thousand."""
        now = time.monotonic()
        if self.kernel is not None and now - self._told.get(kind, -_QUIET) >= _QUIET:
            self._told[kind] = now
            self.kernel.report("dapr", problem)
