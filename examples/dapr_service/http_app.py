"""A FastAPI app whose jobs Dapr schedules: triggers come as POST /job/…, next to the app's own routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
from fastapi import FastAPI

from aether_bg import Aether, DaprScheduler

scheduler = DaprScheduler(serve=False)
jobs = Aether("shop.db", scheduler=scheduler)


@attrs.define
class Order:
    number: int


@jobs.handler("Ship", retries=3)
async def ship(order: Order) -> None:
    print(f"shipped {order.number}", flush=True)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with jobs:
        yield


api = FastAPI(lifespan=lifespan)


@api.post("/orders/{number}")
async def order(number: int) -> dict[str, str]:
    return {"job": str(await jobs.enqueue(ship, f"ship-{number}", Order(number)))}


@api.get("/jobs")
async def state() -> dict[str, Any]:
    health = await jobs.health()
    return {"ok": health["ok"], "problems": health["problems"]}


api.mount("/job", scheduler.asgi)
api.add_route("/healthz", scheduler.asgi.health)  # Dapr's app health check: an app without it gets no triggers
