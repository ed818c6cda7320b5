"""A process whose handler commits its outcome itself, and does not return: `completing.py URL`."""

from __future__ import annotations

import sys

import anyio
import psycopg

from aether_bg import Aether, JobContext

app = Aether(sys.argv[1], scheduler="timer")


@app.handler("Complete", keep_result=True)
async def complete(ctx: JobContext) -> int:
    async with await psycopg.AsyncConnection.connect(sys.argv[1]) as conn:
        await ctx.complete(conn)
        await conn.commit()
    sys.stdout.write("committed\n")
    sys.stdout.flush()
    await anyio.sleep(300)
    return 42


app.run()
