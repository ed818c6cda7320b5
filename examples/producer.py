"""The process that asks for work, and waits for the results. It needs neither the handlers nor their imports.

python examples/producer.py README.md LICENSE      # while examples/worker.py runs
"""

import sys
from pathlib import Path

import anyio
from shared_jobs import DATABASE, FINGERPRINT, File

from aether_bg import Aether


async def main(paths: list[Path]) -> None:
    async with Aether(DATABASE).client() as jobs:  # enqueues and queries; never runs a job
        waiting = {path: await jobs.enqueue(FINGERPRINT, payload=File(path)) for path in paths}
        for path, job in waiting.items():
            ended = await jobs.wait(job, timeout=30)
            if ended.last_error:
                print(f"{path}: {ended.last_error.splitlines()[0]}")
                continue
            async with jobs.unit_of_work() as work:
                found = work.execute("SELECT sha256, size FROM fingerprints WHERE path = ?", [str(path)])
            print(f"{found.result[0][0]}  {path} ({found.result[0][1]} bytes)")


if __name__ == "__main__":
    anyio.run(main, [Path(name).resolve() for name in sys.argv[1:]] or [Path(__file__).resolve()])
