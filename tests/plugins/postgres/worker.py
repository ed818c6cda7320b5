"""A process that runs jobs until it is killed: `worker.py URL`; it says when it is ready."""

from __future__ import annotations

import sys

import anyio

from aether_bg import Aether

app = Aether(sys.argv[1], scheduler="timer")


@app.handler("Sleep")
async def sleep(payload: float) -> None:
    await anyio.sleep(payload)


async def main() -> None:
    async with app:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await anyio.sleep(300)


if __name__ == "__main__":
    anyio.run(main)
