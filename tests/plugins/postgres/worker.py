"""A process that runs jobs until it is killed: `worker.py URL`; it writes a line for each job that starts."""

from __future__ import annotations

import sys

import anyio

from aether_bg import Aether

app = Aether(sys.argv[1], scheduler="timer")


@app.handler("Sleep")
async def sleep(payload: float) -> None:
    print("started", flush=True)
    await anyio.sleep(payload)


async def main() -> None:
    async with app:
        print("ready", flush=True)
        await anyio.sleep(300)


if __name__ == "__main__":
    anyio.run(main)
