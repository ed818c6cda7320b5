"""A process of its own for the tests of the APScheduler plugin: `python apscheduler_worker.py FOLDER`."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "plugins"))

from apscheduler_scheduler import APScheduler

from aether_bg import Aether


async def main(folder: Path) -> None:
    """Enqueue jobs for soon, say which are promised, and start what comes due until the end."""
    app = Aether(folder / "jobs.db", scheduler=APScheduler(f"sqlite:///{folder / 'triggers.db'}"))

    @app.handler("Tick")
    async def tick(n: int) -> None:
        await anyio.sleep(0.5)

    async with app:
        for n in range(1000):
            job = await app.enqueue(tick, payload=n, schedule=timedelta(seconds=n % 5 / 2))
            sys.stdout.write(f"{job}\n")
            sys.stdout.flush()
            await anyio.sleep(0.05)


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
