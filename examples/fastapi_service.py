"""A web service that answers at once and does the work afterwards; the jobs start and stop with its lifespan.

    pip install 'aether-bg[web]' fastapi
    uvicorn --app-dir examples fastapi_service:service
    curl -d '{"to": "ada@example.org", "item": "umbrella"}' -H 'Content-Type: application/json' localhost:8000/orders

Open http://localhost:8000/ops/jobs/ to look at the jobs, with any name; the key is "let-me-in" unless ADMIN_KEY is set.
The orders and their mails are in ./fastapi-service.db. With several worker processes, each runs jobs of that file.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import attrs
from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel

from aether_bg import Aether, Backoff, JobContext, UnitOfWork
from aether_bg.ext.web import dashboard, health, lifespan

jobs = Aether("fastapi-service.db")
ADMIN_KEY = os.environ.get("ADMIN_KEY", "let-me-in")

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, item TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS outgoing_mail (job TEXT PRIMARY KEY, recipient TEXT NOT NULL, text TEXT NOT NULL)",
)


@attrs.frozen
class Confirm:
    to: str
    item: str


@jobs.handler("Confirm", retries=5, backoff=Backoff(first=2), timeout=30)
async def confirm(mail: Confirm, ctx: JobContext, work: UnitOfWork) -> None:
    text = f"Thank you for ordering one {mail.item}."
    work.execute("INSERT INTO outgoing_mail VALUES (?, ?, ?)", [str(ctx.job.id), mail.to, text])


@asynccontextmanager
async def tables(_: FastAPI) -> AsyncIterator[None]:
    async with jobs.unit_of_work() as work:
        for statement in SCHEMA:
            work.execute(statement)
    yield


def admin(request: Request) -> str | Response:
    """Who may see the page: HTTP Basic, for this example. The audit fields have the name."""
    kind, _, sent = request.headers.get("authorization", "").partition(" ")
    with contextlib.suppress(ValueError):
        name, _, key = base64.b64decode(sent).decode().partition(":")
        if kind.lower() == "basic" and name and secrets.compare_digest(key.encode(), ADMIN_KEY.encode()):
            return name
    return Response("Log in.", 401, {"WWW-Authenticate": "Basic"})


service = FastAPI(lifespan=lifespan(jobs, tables))
service.mount("/ops/jobs", dashboard(jobs, allow=admin))
service.mount("/health", health(jobs))


class Order(BaseModel):
    to: str
    item: str


@service.post("/orders", status_code=202)
async def order(order: Order) -> dict[str, str]:
    number = str(uuid4())
    async with jobs.unit_of_work() as work:  # the order and its mail, or neither
        work.execute("INSERT INTO orders VALUES (?, ?)", [number, order.item])
        job = await jobs.enqueue(confirm, f"confirm:{number}", Confirm(order.to, order.item))
    return {"order": number, "job": str(job)}


@service.get("/jobs/{job}")
async def job(job: UUID) -> dict[str, Any]:
    found = await jobs.store.get(job)
    if found is None:
        raise HTTPException(404, "there is no such job")
    return {"name": found.job_name, "status": found.status.name.lower(), "why": await jobs.explain(job)}
