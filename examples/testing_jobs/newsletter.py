"""The app that the tests beside it test: readers sign up, get a welcome, and a newsletter every Monday.

A program of its own as well: `python newsletter.py` runs it until Ctrl-C.
"""

from __future__ import annotations

from typing import Protocol

import attrs

from aether_bg import Aether, Backoff

app = Aether("newsletter.db")


class Mailer(Protocol):
    async def send(self, to: str, subject: str) -> None: ...


class PrintingMailer:
    async def send(self, to: str, subject: str) -> None:
        print(f"to {to}: {subject}")


app.provide(Mailer, PrintingMailer)
readers: list[str] = []


@attrs.define
class Welcome:
    to: str


async def sign_up(address: str) -> None:
    """What a web service would call."""
    readers.append(address)
    await app.enqueue("Welcome", f"welcome-{address}", Welcome(address))


@app.handler("Welcome", retries=3, backoff=Backoff(first=60, jitter=0))
async def welcome(args: Welcome, *, mailer: Mailer) -> None:
    await mailer.send(args.to, "Welcome!")


@app.handler("Newsletter", schedule="CRON_TZ=Europe/Berlin 0 9 * * MON")
async def newsletter(*, mailer: Mailer) -> None:
    for reader in readers:
        await mailer.send(reader, "This week")


if __name__ == "__main__":
    app.run()
