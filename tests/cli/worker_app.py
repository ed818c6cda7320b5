"""A process that runs jobs on the database named on the command line, until it is killed or told to stop.

It prints "ready", and one line for each thing its handlers do.
"""

from __future__ import annotations

import asyncio
import sys

from aether_bg import Aether

app = Aether(sys.argv[1] if len(sys.argv) > 1 else "worker.db", scheduler="timer", grace=1)


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


@app.handler("Ok")
async def ok() -> None:
    say("ok")


@app.handler("Fails")
def fails() -> None:
    raise ValueError("no\r\n\x1b[31mway")


@app.handler("Slow")
async def slow() -> None:
    say("slow begins")
    try:
        await asyncio.sleep(60)
    finally:
        say("slow ends")


async def main() -> None:
    async with app:
        say("ready")
        await asyncio.sleep(120)


if __name__ == "__main__":
    asyncio.run(main())
