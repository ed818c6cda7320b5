"""Right and wrong uses, for mypy (`nox -s types`): it accepts all but the marked lines, and those it must refuse.

Nothing here runs. A mark that is not needed is an error, too: `strict` warns of unused ones.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import attrs

from aether_bg import Aether, JobContext, JobInfo, JobType, SQLiteStore
from aether_bg.protocols import Store

app = Aether("jobs.db")


@attrs.define
class Mail:
    to: str


MAIL = JobType("SendMail", Mail)


@app.handler("SendMail", retries=3)
async def send_mail(args: Mail, ctx: JobContext) -> None: ...


@app.handler("Count")
def count(n: int) -> None: ...


@app.handler("Backup", schedule="@daily")
def backup() -> None: ...


class Mailer: ...


@app.handler("Nightly")
async def nightly(*, mailer: Mailer) -> None: ...


@app.handler("Class")
class Send:
    def __init__(self, mailer: Mailer) -> None: ...

    async def handle(self, args: Mail, ctx: JobContext) -> None: ...


@app.handler("Tidy")
class Tidy:
    def handle(self, *, mailer: Mailer) -> None: ...


def sync() -> None:
    with app.blocking() as jobs:
        stored: UUID = jobs.enqueue(nightly)
        jobs.enqueue(Send, payload=Mail("a"))
        jobs.enqueue(Tidy, "name", schedule="@daily", repeats=2)
        jobs.enqueue(Send, payload=1)  # type: ignore[misc]
        jobs.enqueue(nightly, payload=1)  # type: ignore[arg-type]
        jobs.enqueue(nightly, repeat=1)  # type: ignore[call-overload]
        jobs.wait(stored)


async def good() -> None:
    await app.enqueue(nightly)
    await app.enqueue(Send, payload=Mail("a"))
    await app.enqueue(Send, "name", {"to": "a"}, timezone="Europe/Berlin")
    await app.enqueue(Tidy)
    by_function: UUID = await app.enqueue(send_mail, payload=Mail("a"))
    await app.enqueue(send_mail, "name", {"to": "a"}, timedelta(hours=1), {"OrderId": 1}, if_exists="keep")
    await app.enqueue(count, payload=1)
    await app.enqueue(backup)
    await app.enqueue(MAIL, payload=Mail("a"), schedule=datetime.max, misfire="all")
    await app.enqueue("SendMail", payload=Mail("a"))
    await app.enqueue("SendMail", payload=1)
    await app.update(by_function, "@weekly")
    (await app.wait("name", 1)).payload


async def bad() -> None:
    await app.enqueue(nightly, payload=1)  # type: ignore[arg-type]
    await app.enqueue(backup, payload=1)  # type: ignore[arg-type]
    await app.enqueue(Send, payload=1)  # type: ignore[misc]
    await app.enqueue(Send, payload="text")  # type: ignore[misc]
    await app.enqueue(Tidy, payload=1)  # type: ignore[arg-type]
    await app.enqueue(count, payload="one")  # type: ignore[arg-type]
    await app.enqueue(MAIL, payload=1)  # type: ignore[arg-type]
    await app.enqueue(MAIL, payload=JobContext)  # type: ignore[arg-type]
    await app.enqueue(send_mail, payload=b"pickled")  # type: ignore[arg-type]
    await app.enqueue(send_mail, 7)  # type: ignore[call-overload]
    await app.enqueue(7)  # type: ignore[call-overload]
    await app.enqueue("SendMail", schedule=60)  # type: ignore[call-overload]
    await app.enqueue("SendMail", if_exists="raze")  # type: ignore[call-overload]
    await app.enqueue("SendMail", misfire="never")  # type: ignore[call-overload]
    await app.enqueue("SendMail", retries=3)  # type: ignore[call-overload]
    await app.update(7, "@weekly")  # type: ignore[arg-type]
    wrong: str = await app.enqueue(backup)  # type: ignore[assignment]
    Aether("jobs.db", concurency=4)  # type: ignore[arg-type]
    app.handler("X", retires=3)  # type: ignore[arg-type]
    (await app.wait("name", 1)).paylod  # type: ignore[attr-defined]


class Half:
    async def store_find(self, query: object) -> list[JobInfo]:
        return []


class Wrong(SQLiteStore):
    async def store_stats(self) -> int:  # type: ignore[override]
        return 0


store: Store = SQLiteStore("jobs.db")
half: Store = Half()  # type: ignore[assignment]
not_a_store: Store = app  # type: ignore[assignment]
