"""The scheduling layer on Dapr Jobs: each due instant is a one-shot in Dapr; payload and truth stay in the store.

`settings` what can be set · `names` what travels · `door` a trigger comes in, over `server` (gRPC) or `asgi` (HTTP) ·
`sidecar` the calls to daprd · `fitness` does it fit · `contact` is it there · `reconcile` Dapr against the store
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib.util import find_spec
from typing import Any

import anyio

from aether_bg.errors import SchedulerError, SchedulerMisconfigured
from aether_bg.hookspecs import hookimpl
from aether_bg.model import JobInfo
from aether_bg.plugins.dapr.asgi import ASGIApp, TriggerRoute
from aether_bg.plugins.dapr.contact import Contact
from aether_bg.plugins.dapr.door import Door
from aether_bg.plugins.dapr.settings import LOOPBACK, DaprSettings
from aether_bg.protocols import Kernel

__all__ = ["DaprScheduler", "DaprSettings"]


class DaprScheduler:
    """Scheduling by a Dapr sidecar (1.18.3 or later). Everything has its default from the environment Dapr sets.

    `endpoint, api_token`: the sidecar's gRPC API. `app_port, host, app_token`: where and from whom triggers are taken;
    `serve=False`: not by a server of its own, but by `asgi`, mounted in your HTTP app. `wait`: seconds that the start
    waits for the sidecar; `required`: whether it fails without. `deadline, redeliver, reconcile`: see `DaprSettings`.
    """

    def __init__(
        self,
        *,
        serve: bool = True,
        endpoint: str | None = None,
        api_token: str | None = None,
        host: str = "127.0.0.1",
        app_port: int | None = None,
        app_token: str | None = None,
        required: bool = False,
        wait: float = 5.0,
        deadline: float = 5.0,
        redeliver: float = 1.0,
        reconcile: float = 60.0,
    ) -> None:
        for library in ("dapr", "grpc"):
            if find_spec(library) is None:
                raise SchedulerMisconfigured(
                    "DaprScheduler", f"needs the package {library!r}", "Install it: pip install 'aether-bg[dapr]'"
                )
        given = {"endpoint": endpoint, "api_token": api_token, "app_port": app_port, "app_token": app_token}
        from_environment: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        self.settings = DaprSettings(
            serve=serve,
            host=host,
            required=required,
            wait=wait,
            deadline=deadline,
            redeliver=redeliver,
            reconcile=reconcile,
            **from_environment,
        )
        self._door = Door(self.settings.app_token)
        self._route = TriggerRoute(self._door)
        self._contacts: dict[int, Contact] = {}
        """One per start, of the app or of a client of it."""
        self._contact: Contact | None = None
        """The app's."""

    def __repr__(self) -> str:
        return f"<DaprScheduler {self.settings.endpoint}>"

    @property
    def asgi(self) -> ASGIApp:
        """The trigger route (POST /job/{name}) as an ASGI app, for `serve=False`: mount it at "/" or "/job"."""
        return self._route

    @property
    def health(self) -> str | None:
        """What is wrong with the sidecar, or with how it fits; None when nothing is."""
        trouble = self._contact.trouble if self._contact else None
        return None if trouble is None else str(trouble)

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel, stack: AsyncExitStack) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise SchedulerMisconfigured(
                "DaprScheduler under trio",
                "Dapr's libraries (grpc.aio) run on asyncio only",
                'Run the app on asyncio, or use scheduler="timer".',
            ) from None
        from aether_bg.plugins.dapr.sidecar import Sidecar

        sidecar = Sidecar(self.settings)
        stack.push_async_callback(_shielded, sidecar.close)
        contact = Contact(kernel, self.settings, sidecar, self._door)
        await contact.begin()
        self._contacts[id(kernel)] = contact
        stack.callback(self._forget, id(kernel))

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        from aether_bg.plugins.dapr.server import serve

        settings, contact = self.settings, self._contacts[id(kernel)]
        self._contact = contact  # it arms until the store closes, that is longer than triggers are taken
        async with AsyncExitStack() as stack:
            self._door.kernel = kernel
            stack.callback(self._door.close)
            if settings.serve:
                if settings.host not in LOOPBACK and settings.app_token is None:
                    kernel.report("dapr", f"triggers are taken on {settings.host} without a token; set APP_API_TOKEN")
                port = settings.app_port or await contact.app_port()
                try:
                    await serve(self._door, settings.host, port, stack)
                except SchedulerMisconfigured as error:
                    contact.trouble = error
                    raise
            kernel.wake()  # what could not be armed until now
            await contact.keep()

    @hookimpl
    async def schedule_arm(self, job: JobInfo) -> bool:
        contact = self._contact
        if contact is None or contact.away:
            return False
        try:
            await contact.arm(job)
        except SchedulerError as error:
            contact.lost(error)
            return False
        return True

    def _forget(self, start: int) -> None:
        if self._contacts.pop(start) is self._contact:
            self._contact = None


async def _shielded(close: Callable[[], Awaitable[Any]]) -> None:
    with anyio.CancelScope(shield=True):
        await close()
