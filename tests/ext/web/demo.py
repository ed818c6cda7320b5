"""A service with jobs in every state, for the browser: `uvicorn demo:service`, the store in $DEMO_STORE."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.routing import Mount

from aether_bg import Aether, Backoff
from aether_bg.ext.web import dashboard, health, lifespan

jobs = Aether(os.environ.get("DEMO_STORE", "demo.db"), scheduler="timer", actor="demo")


@jobs.handler("SendEmail", retries=2, backoff=Backoff(first=0.05))
async def send_email(mail: dict[str, Any]) -> None:
    if "bounces" in mail["to"]:
        raise ConnectionError(f"mail server refused {mail['to'].partition('@')[2]}: 550 mailbox unavailable")


@jobs.handler("ResizePicture", timeout=30)
async def resize(path: str) -> None:
    if path.endswith(".gif"):
        raise ValueError("cannot resize a moving picture")
    await anyio.sleep(0.02)


@jobs.handler("ImportOrders")
async def import_orders(source: str) -> None:
    await anyio.sleep(3600)


@jobs.handler("ChargeCard", retries=5, backoff=Backoff(first=600, jitter=0))
async def charge(order: dict[str, Any]) -> None:
    raise TimeoutError("the bank did not answer within 5 s")


@jobs.handler("NightlyReport")
async def report() -> None: ...


@asynccontextmanager
async def work(_: Any) -> AsyncIterator[None]:
    if not await jobs.store.find(limit=1):
        for n in range(12):
            await jobs.enqueue(send_email, f"welcome:{n:03}", {"to": f"user{n}@example.org", "card": "4111-SECRET"})
        for n in range(3):
            await jobs.enqueue(send_email, f"newsletter:{n}", {"to": f"x{n}@bounces.example", "card": "4111-SECRET"})
        for n in range(6):
            await jobs.enqueue(resize, f"thumbnail:{n}", f"pictures/{n}.{'gif' if n == 4 else 'png'}")
        await jobs.enqueue(import_orders, "import:warehouse", "s3://warehouse/4111-SECRET")
        await jobs.enqueue(
            charge, "charge:1042", {"order": 1042, "card": "4111-SECRET"}, metadata={"Iban": "4111-SECRET"}
        )
        await jobs.enqueue(report, "report:orders", after=["charge:1042", "import:warehouse", "welcome:001"])
        nightly = await jobs.enqueue(report, "report:nightly", schedule="30 2 * * *", timezone="Europe/Berlin")
        await jobs.enqueue(report, "report:weekly", schedule="0 9 * * MON")
        await jobs.pause(await jobs.enqueue(report, "report:hourly", schedule="@hourly"))
        await jobs.enqueue(send_email, "reminder:7", {"to": "ada@example.org"}, schedule=timedelta(days=3))
        await jobs.delete(
            await jobs.enqueue(send_email, "obsolete", {"to": "old@example.org"}, schedule=timedelta(days=9))
        )
        assert nightly
    yield


def person(request: Any) -> object:
    return request.headers.get("x-user", "ada")


options: dict[str, Any] = {"payloads": os.environ.get("DEMO_PAYLOADS", "keys")}
service = Starlette(
    routes=[
        Mount("/health", health(jobs)),
        Mount("/ops/jobs", dashboard(jobs, allow=person, **options)),
        Mount("/look", dashboard(jobs, allow=person, read_only=True)),
    ],
    lifespan=lifespan(jobs, work),
)
