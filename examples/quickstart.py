"""Import a CSV file into a table, one crash-safe job per line; run it twice and nothing is imported twice.

    python examples/quickstart.py                 # makes a small sample and imports it
    python examples/quickstart.py your-own.csv

Kill it in the middle, with `kill -9` or by pulling the plug, and start it again: it continues where it was. The result
and a log are in ./quickstart-output.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import os
import random
import re
import sys
from pathlib import Path

import anyio
import attrs

from aether_bg import Aether, Backoff, GiveUp, JobContext, NewJob, UnitOfWork

OUTPUT = Path("quickstart-output")
SAMPLE = OUTPUT / "orders.csv"
BROKEN_ON_PURPOSE = " (this line of the sample is broken on purpose)"
app = Aether(OUTPUT / "jobs.db", concurrency=50)


@attrs.frozen
class Line:
    table: str
    number: int
    width: int
    values: list[str]


class AddressService:
    """Stands in for a service on the network. It fails on every 40th line, the first time it is asked."""

    async def check(self, line: Line, attempt: int) -> None:
        await anyio.sleep(0.5)
        if line.number % 40 == 0 and attempt == 1:
            raise ConnectionError("the address service did not answer")


app.provide(AddressService)


@app.handler("ImportLine", retries=3, backoff=Backoff(first=1), timeout=10)
async def import_line(line: Line, service: AddressService, ctx: JobContext, work: UnitOfWork) -> None:
    if len(line.values) != line.width:
        raise GiveUp(f"line {line.number} has {len(line.values)} values, its header {line.width}")
    await service.check(line, ctx.attempt)
    places = ", ".join("?" * (line.width + 1))
    work.execute(f"INSERT INTO {line.table} VALUES ({places})", [line.number, *line.values])  # commits with the job


@app.handler("Progress", schedule="@every 250ms")
async def progress() -> None:
    counts = (await app.store.stats()).by_handler.get("ImportLine", {})
    ended, running, waiting = counts.get("completed", 0) + counts.get("failed", 0), counts.get("running", 0), 0
    if total := sum(counts.values()):
        waiting = total - ended - running
        bar = "#" * (30 * ended // total)
        line = f"  [{bar:.<30}] {ended} of {total} done, {running} running, {waiting} waiting"
        print(f"\r{line:<79}" if sys.stdout.isatty() else line, end="" if sys.stdout.isatty() else "\n", flush=True)


async def main(source: Path) -> None:
    header, *rows = read(source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:8]
    table = re.sub(r"\W+", "_", f"lines_of_{source.stem}_{digest}", flags=re.ASCII)
    columns = ", ".join('"' + name.replace('"', '""') + '"' for name in header)
    async with app:
        async with app.unit_of_work() as work:
            work.execute(f"CREATE TABLE IF NOT EXISTS {table} (line_number INTEGER PRIMARY KEY, {columns})")
        before = (await app.store.stats()).by_handler.get("ImportLine", {})
        print(f"Importing {len(rows)} lines of {source}, a job for each line.")
        if before:
            print(f"An earlier run has finished {before.get('completed', 0)} of them; this one goes on from there.")
        print(f"To see it survive a crash, run `kill -9 {os.getpid()}` elsewhere and start it again.")
        print('"Waiting" jobs have not begun, or wait a second before they try again.\n')
        lines = (Line(table, number, len(header), values) for number, values in enumerate(rows, 2))
        jobs = await app.enqueue_many(
            NewJob(import_line, f"{table}:{line.number}", line, if_exists="keep") for line in lines
        )
        for job in jobs:
            await app.wait(job)
        await report(table, source)


async def report(table: str, source: Path) -> None:
    async with app.unit_of_work() as work:
        imported = work.execute(f"SELECT count(*) FROM {table}")
        ended = work.execute(
            "SELECT s.name, count(*), sum(retry_count > 0) FROM aether_jobs JOIN aether_job_status s ON s.id = status"
            " WHERE job_name GLOB ? GROUP BY 1",
            [f"{table}:*"],
        )
        failed = work.execute(
            "SELECT job_name, last_error FROM aether_jobs WHERE status = 3 AND job_name GLOB ?", [f"{table}:*"]
        )
    print(f"\n\n{'lines':<12} {'jobs':>6} {'after a retry':>15}")
    for status, count, retried in ended.result:
        print(f"{status:<12} {count:>6} {retried:>15}")
    print(f"\n{imported.result[0][0]} rows of {source} are in table {table} of {OUTPUT / 'jobs.db'}.")
    command = os.path.relpath(Path(sys.executable).with_name("aether-bg"))
    print("\nWhat to run next:")
    for name, error in failed.result[:1]:
        print(f"  {command} explain {OUTPUT / 'jobs.db'} {name}")
        print(f"      why it failed: {error.splitlines()[0]}" + BROKEN_ON_PURPOSE * (source == SAMPLE))
    print(f"  {command} list {OUTPUT / 'jobs.db'}")
    print("      all jobs; with --status failed, the failed ones")
    print(f"  {os.path.relpath(sys.executable)} {sys.argv[0]}")
    print("      the same again: nothing is imported twice")


def read(source: Path) -> list[list[str]]:
    with source.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    return rows or sys.exit(f"{source} is empty")


def sample() -> Path:
    """400 orders, one of them broken."""
    if not SAMPLE.exists():
        pick = random.Random(1)
        names = ["Ada", "Grace", "Edsger"]
        rows = [[f"A-{n:04}", pick.choice(names), f"{pick.uniform(5, 500):.2f}"] for n in range(400)]
        rows[222].append("a field too many")
        with SAMPLE.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["order", "customer", "amount"], *rows])
    return SAMPLE


if __name__ == "__main__":
    OUTPUT.mkdir(exist_ok=True)
    logging.basicConfig(filename=OUTPUT / "quickstart.log", format="%(asctime)s %(levelname)s %(message)s")
    anyio.run(main, Path(sys.argv[1]) if len(sys.argv) > 1 else sample())
