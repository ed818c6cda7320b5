"""A service for any number of replicas on any number of machines: one PostgreSQL store, Dapr or the timer.

DATABASE_URL names the database. Beside a sidecar Dapr schedules, without one the embedded timer does.
"""

from __future__ import annotations

import os
import socket

import anyio
import attrs
import psycopg

from aether_bg import Aether, DaprScheduler, JobContext, PostgresStore

URL = os.environ["DATABASE_URL"]
scheduler = "timer"
if os.environ.get("DAPR_GRPC_PORT"):  # the kubelet probes the pod's address, so listen there; that needs APP_API_TOKEN
    host = "0.0.0.0" if os.environ.get("APP_API_TOKEN") else "127.0.0.1"
    scheduler = DaprScheduler(host=host)  # type: ignore[assignment]
app = Aether(PostgresStore(URL, session=os.environ.get("SESSION_URL") or None), scheduler=scheduler, grace=20)


@attrs.define
class Order:
    number: int
    to: str


@app.handler("Ship", retries=3, timeout=60)
async def ship(order: Order, ctx: JobContext) -> None:
    """The row and the outcome are one commit: an order is shipped once, whichever process dies."""
    async with await psycopg.AsyncConnection.connect(URL) as conn:
        await conn.execute(
            "INSERT INTO shipments (number, shipped_by) VALUES (%s, %s)",
            (order.number, f"{socket.gethostname()}/{os.getpid()}"),
        )
        await ctx.complete(conn)


@app.handler("Report", schedule="0 7 * * mon-fri")  # declared by every replica, and run by one of them
async def report() -> None:
    print("the daily figures", flush=True)


async def take_order(number: int, to: str) -> None:
    """What a request handler of the service does: the order and its job are one commit."""
    async with await psycopg.AsyncConnection.connect(URL) as conn:
        await conn.execute("INSERT INTO orders (number, customer) VALUES (%s, %s)", (number, to))
        await app.enqueue(ship, f"ship-{number}", Order(number, to), connection=conn)


async def make_tables() -> None:
    async with await psycopg.AsyncConnection.connect(URL, autocommit=True) as conn:
        await conn.execute("SELECT pg_advisory_lock(7)")  # replicas may start at the same moment
        await conn.execute("CREATE TABLE IF NOT EXISTS orders (number bigint PRIMARY KEY, customer text NOT NULL)")
        await conn.execute("CREATE TABLE IF NOT EXISTS shipments (number bigint PRIMARY KEY, shipped_by text NOT NULL)")


if __name__ == "__main__":
    anyio.run(make_tables)
    app.run()
