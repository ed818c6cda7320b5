"""A small app as a user would have it: a module with a global `app`, and code that uses it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from aether_bg import Aether, Backoff, JobContext, UnitOfWork, hookimpl
from aether_bg.model import Decision, Event, Failure, GiveUpNow, JobInfo, Raised


@attrs.define
class Mail:
    to: str
    copies: int = 1


class Mailer:
    """The real one: no test may come here."""

    def __init__(self) -> None:
        raise AssertionError("the real mailer was made")

    def send(self, mail: Mail) -> None:
        raise NotImplementedError


class Printer:
    def __init__(self) -> None:
        self.printed: list[str] = []


class Plugin:
    """A policy, a stamp and an observer, to be found in a sandbox as well."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @hookimpl
    def dispatch_decide(self, ctx: JobContext, failure: Failure) -> Decision | None:
        if isinstance(failure, Raised) and isinstance(failure.error, PermissionError):
            return GiveUpNow("not allowed")
        return None

    @hookimpl
    def dispatch_stamp(self, job: JobInfo) -> dict[str, Any]:
        return {"tenant": "north"}

    @hookimpl
    async def lifecycle_event(self, event: Event) -> None:
        self.seen.append(type(event).__name__)


def make_shop(store: Any, **options: Any) -> Aether:
    """Handlers of every kind: async and plain, with dependencies, a unit of work, a schedule, retries."""
    options = {"scheduler": "timer", "grace": 2, **options}
    app = Aether(store, **options)

    def printer() -> Iterator[Printer]:
        yield Printer()

    app.provide(Mailer)
    app.provide(Printer, printer)

    @app.handler("SendEmail", retries=2, backoff=Backoff(first=60, jitter=0))
    async def send_email(mail: Mail, mailer: Mailer) -> None:
        mailer.send(mail)

    @app.handler("Print")
    def print_out(text: str, printer: Printer) -> None:
        printer.printed.append(text)

    @app.handler("Book")
    async def book(item: str, uow: UnitOfWork) -> None:
        uow.execute("INSERT INTO bookings (item) VALUES (?)", [item])
        await app.enqueue("SendEmail", f"booked-{item}", Mail("ada@example.org"))

    @app.handler("Report", schedule="0 3 * * *")
    def report(ctx: JobContext) -> None: ...

    return app


class FakeMailer:
    """`broken`: what the next sendings raise, one after the other."""

    def __init__(self, *broken: Exception) -> None:
        self.sent: list[Mail] = []
        self.broken = list(broken)

    def send(self, mail: Mail) -> None:
        if self.broken:
            raise self.broken.pop(0)
        self.sent.append(mail)
