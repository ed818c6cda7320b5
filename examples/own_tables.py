"""A handler with its own tables: it takes from the stock exactly once, however often it is tried or killed.

    python examples/own_tables.py

The rows that a handler writes through its `UnitOfWork` commit together with its outcome, or not at all. The tables are
in ./own-tables.db, the jobs' database; run it again and it sells what is left.
"""

from __future__ import annotations

import anyio
import attrs

from aether_bg import Aether, JobContext, UnitOfWork

app = Aether("own-tables.db")

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS stock (item TEXT PRIMARY KEY, left INTEGER NOT NULL CHECK (left >= 0))",
    "CREATE TABLE IF NOT EXISTS sales (job TEXT PRIMARY KEY, item TEXT NOT NULL, count INTEGER NOT NULL)",
    "INSERT INTO stock VALUES ('umbrella', 10) ON CONFLICT DO NOTHING",
)


@attrs.frozen
class Order:
    item: str
    count: int


@attrs.frozen
class Letter:
    text: str


@app.handler("Sell")
async def sell(order: Order, ctx: JobContext, work: UnitOfWork) -> None:
    """Queued here; one transaction carries it out after this returns. The database is not locked in between."""
    work.execute("UPDATE stock SET left = left - ? WHERE item = ?", [order.count, order.item])  # CHECK: never below 0
    work.execute("INSERT INTO sales VALUES (?, ?, ?)", [str(ctx.job.id), order.item, order.count])
    await app.enqueue(thank, payload=Letter(f"Thank you for buying {order.count} × {order.item}."))  # joins as well


@app.handler("Thank")
def thank(letter: Letter) -> None:
    print(f"  {letter.text}")


async def main() -> None:
    async with app:
        async with app.unit_of_work() as work:
            for statement in SCHEMA:
                work.execute(statement)
        orders = [await app.enqueue(sell, payload=Order("umbrella", count)) for count in (3, 4, 5)]
        for order in orders:
            ended = await app.wait(order)
            print(f"order of {ended.payload['count']}: {ended.status.name.lower()} {(ended.last_error or '')[:60]!r}")
        await app.drain()  # the letters
        async with app.unit_of_work() as work:
            left = work.execute("SELECT left, (SELECT total(count) FROM sales) FROM stock WHERE item = 'umbrella'")
    print("{} left, {:.0f} sold".format(*left.result[0]))


if __name__ == "__main__":
    anyio.run(main)
