"""A long import that continues where it was killed, and reports its progress.

    python examples/import_with_checkpoints.py --die-at 620     # kills itself in the middle: kill -9
    python examples/import_with_checkpoints.py                  # continues after row 600

Every hundred rows it writes a checkpoint, which is durable when the call returns. The rows after the last checkpoint
are imported again, so importing a row twice must do no harm: here, INSERT OR REPLACE under a number.
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3

import anyio

from aether_bg import Aether, JobContext, Progress

ROWS, EACH = 1000, 100
app = Aether("import.db")
die_at = 0


@app.handler("Import")
def import_(ctx: JobContext) -> None:
    """A plain function: `ctx.checkpoint` waits here. In an async one: `await ctx.checkpoint(…)`."""
    done = ctx.checkpointed or 0
    print(f"attempt {ctx.attempt} goes on after row {done}")
    with sqlite3.connect("customers.db") as customers:
        customers.execute("CREATE TABLE IF NOT EXISTS customers (number INTEGER PRIMARY KEY, name TEXT)")
        for number in range(done + 1, ROWS + 1):
            if number == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            customers.execute("INSERT OR REPLACE INTO customers VALUES (?, ?)", (number, f"customer {number}"))
            ctx.progress(number, ROWS, "customers")
            if number % EACH == 0:
                customers.commit()  # first the work, then the checkpoint
                ctx.checkpoint(number)
    customers.close()


def tell(progress: Progress) -> None:
    print(f"  {progress}")


async def main() -> None:
    async with app:
        job = await app.enqueue(import_, "import-customers", if_exists="keep")
        ended = await app.wait(job, on_progress=tell)
        print(f"{ended.status.name.lower()}: {ended.progress}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--die-at", type=int, default=0, metavar="ROW")
    die_at = parser.parse_args().die_at
    anyio.run(main)
