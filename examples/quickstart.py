"""Import a CSV file into a table, one crash-safe job per line; run it twice and nothing is imported twice.

    python examples/quickstart.py                 # makes a small sample and imports it
    python examples/quickstart.py your-own.csv

Kill it in the middle and start it again: it goes on where it was. The result lies in ./quickstart-output.
"""

from __future__ import annotations

import csv
import hashlib
import random
import re
import sys
from pathlib import Path

import anyio
import attrs

from aether_bg import Aether, Backoff, GiveUp, JobContext, UnitOfWork

OUTPUT = Path("quickstart-output")
app = Aether(OUTPUT / "jobs.db")


@attrs.frozen
class Line:
    table: str
    number: int
    width: int
    values: list[str]


class AddressService:
    """Stands in for something on the network: every 40th line it does not answer the first time."""

    async def check(self, line: Line, attempt: int) -> None:
        await anyio.sleep(0.01)
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


@app.handler("Progress", schedule="@every 500ms")
async def progress() -> None:
    lines = (await app.store.stats()).by_handler.get("ImportLine", {})
    print("  " + ", ".join(f"{count} {status}" for status, count in sorted(lines.items())), flush=True)


async def main(source: Path) -> None:
    header, *rows = read(source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:8]
    table = re.sub(r"\W+", "_", f"lines_of_{source.stem}_{digest}", flags=re.ASCII)
    columns = ", ".join('"' + name.replace('"', '""') + '"' for name in header)
    async with app:
        async with app.unit_of_work() as work:
            work.execute(f"CREATE TABLE IF NOT EXISTS {table} (line_number INTEGER PRIMARY KEY, {columns})")
        print(f"Importing {len(rows)} lines of {source}")
        jobs = []
        for start in range(0, len(rows), 500):
            async with app.unit_of_work():  # these 500 are queued together or not at all
                for number, values in enumerate(rows[start : start + 500], start + 2):
                    line = Line(table, number, len(header), values)
                    jobs.append(await app.enqueue(import_line, f"{table}:{number}", line, if_exists="keep"))
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
        failed = work.execute("SELECT last_error FROM aether_jobs WHERE status = 3 AND job_name GLOB ?", [f"{table}:*"])
    print(f"\n{'lines':<12} {'jobs':>6} {'after a retry':>15}")
    for status, count, retried in ended.result:
        print(f"{status:<12} {count:>6} {retried:>15}")
    for (error,) in failed.result[:5]:
        print(f"  {error.splitlines()[0]}")
    print(f"\n{imported.result[0][0]} rows of {source} are in table {table}")
    print(f"of {OUTPUT / 'jobs.db'}, beside aether_jobs and aether_runs. Run it again: nothing doubles.")


def read(source: Path) -> list[list[str]]:
    with source.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    return rows or sys.exit(f"{source} is empty")


def sample() -> Path:
    """400 orders, one of them broken."""
    path = OUTPUT / "orders.csv"
    if not path.exists():
        pick = random.Random(1)
        names = ["Ada", "Grace", "Edsger"]
        rows = [[f"A-{n:04}", pick.choice(names), f"{pick.uniform(5, 500):.2f}"] for n in range(400)]
        rows[222].append("a field too many")
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["order", "customer", "amount"], *rows])
    return path


if __name__ == "__main__":
    OUTPUT.mkdir(exist_ok=True)
    anyio.run(main, Path(sys.argv[1]) if len(sys.argv) > 1 else sample())
