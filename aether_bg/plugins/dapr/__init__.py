"""The scheduling layer on Dapr Jobs: each due instant is a one-shot in Dapr; payload and state stay in the store.

`settings` what can be set · `names` what is sent · `door` receives triggers, over `server` (gRPC) or `asgi` (HTTP) ·
`sidecar` the calls to daprd · `trouble` what a failed call means · `fitness` whether the sidecar fits · `contact`
whether it answers · `reconcile` compares Dapr with the store · `fallback` runs jobs without it
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import anyio

from aether_bg.errors import SchedulerError, SchedulerMisconfigured
from aether_bg.hookspecs import hookimpl
from aether_bg.model import JobInfo
from aether_bg.plugins.dapr.asgi import TriggerRoute
from aether_bg.plugins.dapr.contact import Contact
from aether_bg.plugins.dapr.door import Door
from aether_bg.plugins.dapr.fallback import Fallback
from aether_bg.plugins.dapr.fitness import misfit
from aether_bg.plugins.dapr.settings import DaprSettings, loopback
from aether_bg.protocols import Kernel

if TYPE_CHECKING:
    from aether_bg.plugins.dapr.server import OnJobEvent

__all__ = ["DaprScheduler", "DaprSettings"]


class DaprScheduler:
    """Scheduling by a Dapr sidecar (1.18.3 or later). All defaults come from the environment that Dapr sets.

    `endpoint, api_token`: the sidecar's gRPC API. `app_port, host, app_token`: where and from whom triggers are
    accepted; `insecure=True`: beyond loopback without a token. `serve=False`: not by a server of its own, but by
    `asgi`, mounted in your HTTP app, or by your gRPC server (`add_to_server`). `wait`: seconds that the start waits for
    the sidecar; `required`: whether the start fails without it. `fallback`: seconds without Dapr, or without its
    triggers, after which this process claims due jobs itself; None: never. `deadline, redeliver, reconcile`: see
    `DaprSettings`.
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
        insecure: bool = False,
        required: bool = False,
        wait: float = 5.0,
        deadline: float = 5.0,
        redeliver: float = 1.0,
        reconcile: float = 60.0,
        fallback: float | None = 30.0,
    ) -> None:
        for library in ("dapr", "grpc"):
            if find_spec(library) is None:
                raise SchedulerMisconfigured("DaprScheduler", f"needs the package {library!r}", _install())
        given = {"endpoint": endpoint, "api_token": api_token, "app_port": app_port, "app_token": app_token}
        from_environment: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        self.settings = DaprSettings(
            serve=serve,
            host=host,
            insecure=insecure,
            required=required,
            wait=wait,
            deadline=deadline,
            redeliver=redeliver,
            reconcile=reconcile,
            fallback=fallback,
            **from_environment,
        )
        self._door = Door(self.settings.app_token)
        self._route = TriggerRoute(self._door)
        self._shared = False
        """A gRPC server of the user's receives the triggers."""
        self._contact: Contact | None = None
        self._fallback: Fallback | None = None

    def __repr__(self) -> str:
        return f"<DaprScheduler {self.settings.endpoint}>"

    @property
    def asgi(self) -> TriggerRoute:
        """The trigger route (POST /job/{name}) as an ASGI app, for `serve=False`: mount it at "/job" or "/".

        `asgi.health`: the answer to Dapr's health checks, for the route /healthz; mounted at "/", `asgi` has it.
        `asgi.wrapping`: middleware instead of a mount, which leaves your own routes under /job to you.
        """
        return self._route

    def add_to_server(self, server: Any, other: OnJobEvent | None = None) -> None:
        """Let your own gRPC server (`grpc.aio.server()`) receive the triggers, for `serve=False`.

            add_AppCallbackServicer_to_server(mine, server)
            scheduler.add_to_server(server, mine.OnJobEvent)   # after your own servicers, before the app's start

        `other(request, context)`: receives the events of Dapr jobs that are not this library's; without it they are
        refused, and delivered again. Health checks of Dapr and of grpc.health.v1 are answered too, unless your server
        does that.
        """
        from aether_bg.plugins.dapr.server import add_to

        self._shared = True
        add_to(server, self._door, other)

    @property
    def health(self) -> str | None:
        """What is wrong with the sidecar, or with how it fits; None if nothing is wrong."""
        contact, fallback = self._contact, self._fallback
        trouble = contact.trouble if contact else None
        said = [] if trouble is None else [str(trouble)]
        if contact and contact.away and contact.away_at:
            said.append(f"Away since {contact.away_at:%Y-%m-%d %H:%M:%S} UTC.")
        if fallback and fallback.active:
            said.append(f"This process claims due jobs itself: {fallback.active}.")
        return " ".join(said) or None

    @property
    def likely_cause(self) -> str | None:
        """Why Dapr may not deliver due jobs."""
        return self.health or self._door.likely_cause()

    @property
    def notice(self) -> str | None:
        """What the operator should know even though everything works."""
        said = []
        if self._contact and self._contact.unlisted:
            said.append(str(self._contact.unlisted))
        beyond = self.settings.serve and not loopback(self.settings.host)
        if self.settings.app_token is None and (beyond or self._door.exposed):
            where = f"Triggers are taken on {self.settings.host}" if beyond else "A trigger came from another machine"
            said.append(f"{where} without a token: anybody on the network can send them. Set APP_API_TOKEN.")
        return " ".join(said) or None

    @hookimpl
    async def lifecycle_start(self, kernel: Kernel, stack: AsyncExitStack) -> None:
        if getattr(kernel, "client", False):
            return  # a client takes no triggers and arms nothing: it needs no sidecar
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise SchedulerMisconfigured(
                "DaprScheduler under trio",
                "Dapr's libraries (grpc.aio) run on asyncio only",
                'Run the app on asyncio, or use scheduler="timer".',
            ) from None
        try:
            from aether_bg.plugins.dapr.sidecar import Sidecar
        except ImportError as error:
            raise SchedulerMisconfigured(
                "DaprScheduler", f"cannot use the package 'dapr': {error}", _install()
            ) from None

        sidecar = Sidecar(self.settings)
        stack.push_async_callback(_shielded, sidecar.close)
        contact = Contact(
            kernel, self.settings, sidecar, self._door, lambda found: misfit(found, self.settings, self._shared)
        )
        await contact.begin()
        self._contact = contact
        if self.settings.fallback is not None:
            self._fallback = Fallback(kernel, self.settings.fallback, contact, self._door)
            stack.push_async_callback(_shielded, self._fallback.close)
        stack.callback(self._forget, contact)

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        from aether_bg.plugins.dapr.server import serve

        settings, contact = self.settings, self._contact
        assert contact is not None  # made at the start
        if self._fallback is not None:
            self._fallback.start()
        async with AsyncExitStack() as stack:
            self._door.open(kernel)
            stack.callback(self._door.close)
            if settings.serve:
                if self.notice is not None:
                    kernel.report("dapr", self.notice)
                port = settings.app_port or await contact.app_port()
                try:
                    await serve(self._door, settings.host, port, stack)
                except SchedulerMisconfigured as error:
                    contact.unfit = error
                    raise
            kernel.wake()  # what could not be armed until now
            await contact.keep()

    @hookimpl
    async def schedule_arm(self, job: JobInfo) -> bool:
        contact = self._contact
        if contact is None or contact.away is not None:
            return False
        try:
            await contact.arm(job)
        except SchedulerError as error:
            contact.lost(error)
            return False
        return True

    def _forget(self, contact: Contact) -> None:
        if self._contact is contact:
            self._contact = self._fallback = None


def _install() -> str:
    chosen = next((name for name in ("DAPR_GRPC_PORT", "DAPR_GRPC_ENDPOINT") if os.environ.get(name)), None)
    why = f' ("auto" chooses Dapr because the environment has {chosen})' if chosen else ""
    return f"Install it: pip install 'aether-bg[dapr]', or use scheduler=\"timer\"{why}."


async def _shielded(close: Callable[[], Awaitable[Any]]) -> None:
    with anyio.CancelScope(shield=True):
        await close()
