"""The app in a sandbox: the same registrations, other foundations, for exactly as long as the block lasts."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import anyio
import pytest
from shop import FakeMailer, Mail, Mailer, Plugin, Printer, make_shop

from aether_bg import (
    Aether,
    AlreadyStarted,
    InvalidOption,
    JobConflict,
    JobContext,
    JobStatus,
    NotStarted,
    SQLiteStore,
    StoreFolderMissing,
    UnresolvedDependency,
    UsageError,
    hookimpl,
)
from aether_bg.model import About
from aether_bg.protocols import Kernel
from aether_bg.testing import FakeClock, JobFailed, sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


async def test_code_that_uses_the_global_app_gets_to_the_sandbox(app: Aether, mailer: FakeMailer) -> None:
    async def sign_up(address: str) -> None:  # as in a user's module
        await app.enqueue("SendEmail", f"welcome-{address}", Mail(address))

    async with sandbox(app, override={Mailer: mailer}) as jobs:
        await sign_up("ada@example.org")
        await anyio.sleep(0.05)
        assert mailer.sent == [], "nothing runs until it is drained"
        (ran,) = await jobs.drain()
        assert mailer.sent == [Mail("ada@example.org")]
        assert (ran.job_name, ran.handler_name, ran.outcome) == ("welcome-ada@example.org", "SendEmail", "completed")
        assert jobs.app is app


async def test_afterwards_the_app_is_as_it_was(app: Aether, mailer: FakeMailer, real: Path) -> None:
    before = dict(vars(app))
    async with sandbox(app, override={Mailer: mailer}):
        await app.enqueue("SendEmail", "mail", Mail("ada"))
    assert vars(app) == before
    assert not real.parent.exists()
    with pytest.raises(StoreFolderMissing):
        await app.__aenter__()
    real.parent.mkdir()
    async with app:
        assert [job.job_name for job in await app.store.find()] == ["Report"]
        assert (await app.store.get_by_job_name("mail")) is None


async def test_afterwards_the_real_dependencies_are_back(tmp_path: Path, mailer: FakeMailer) -> None:
    app = make_shop(tmp_path / "jobs.db")
    async with sandbox(app, override={Mailer: mailer}):
        pass
    async with app:
        job = await app.enqueue("SendEmail", payload=Mail("ada"))
        await app.drain()
        assert "the real mailer was made" in ((await app.store.history(job))[0].error or "")


async def test_each_block_has_a_store_of_its_own(app: Aether) -> None:
    box = sandbox(app)
    for _ in range(2):
        async with box as jobs:
            assert await jobs.assert_not_enqueued("Print") == []
            await app.enqueue("Print", "page", "text")


async def test_options_declarations_plugins_and_policies_are_the_same(real: Path) -> None:
    plugin = Plugin()
    app = make_shop(
        real, plugins=[plugin], actor="billing", concurrency=3, max_payload=100, retention=timedelta(days=9)
    )
    mailer = FakeMailer(PermissionError("no"))
    clock = FakeClock()
    kept = app.options
    async with sandbox(app, clock=clock, override={Mailer: mailer}) as jobs:
        for option in ("concurrency", "grace", "lease", "actor", "retention", "max_payload"):
            assert getattr(app.options, option) == getattr(kept, option)
        assert app.options.clock is clock is jobs.clock
        (report,) = await jobs.assert_enqueued("Report", due=datetime(2030, 1, 1, 3, tzinfo=UTC), schedule="0 3 * * *")
        assert (report.created_by, report.metadata) == ("billing", {"tenant": "north"})
        await app.enqueue("SendEmail", "mail", Mail("ada"))
        (ran,) = await jobs.drain(raise_errors=False)
        assert "given up: not allowed" in (ran.run.error or ""), "the plugin's policy decides"
        assert [job.job_name for job in await jobs.failed()] == ["mail"], "no retry"
    assert {"AppStarted", "Enqueued", "Started", "Ended", "AppStopped"} <= set(plugin.seen)


async def test_a_unit_of_work_and_an_enqueue_in_a_handler(app: Aether, mailer: FakeMailer, tmp_path: Path) -> None:
    async with sandbox(app, override={Mailer: mailer}, store=tmp_path / "trial.db") as jobs:
        async with app.unit_of_work() as uow:
            uow.execute("CREATE TABLE bookings (item TEXT NOT NULL)")
            await app.enqueue("Book", "book", "umbrella")
        assert [ran.job_name for ran in await jobs.drain()] == ["book", "booked-umbrella"]
        assert len(await jobs.completed()) == 2
    with contextlib.closing(sqlite3.connect(tmp_path / "trial.db")) as conn:
        assert conn.execute("SELECT item FROM bookings").fetchall() == [("umbrella",)]


async def test_a_client_of_the_app_is_one_of_the_sandbox(app: Aether) -> None:
    async with sandbox(app) as jobs:
        async with app.client() as client:
            await client.enqueue("Print", "page", "text")
        (ran,) = await jobs.drain()
        assert ran.job_name == "page"
        assert [ran.job_name for ran in await jobs.advance(days=1)] == ["Report"]


async def test_a_store_of_another_make(app: Aether, tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "trial.db")
    async with sandbox(app, store=store):
        assert app.plugins.owners("persistence") == [store]


async def test_owners_of_other_layers_stand_back(real: Path) -> None:
    class Push:
        """A scheduler that must not be asked: it would arm at the real engine."""

        @hookimpl
        async def schedule_run(self, kernel: Kernel) -> None:
            raise AssertionError("asked")

        @hookimpl
        async def schedule_arm(self, job: Any) -> bool:
            raise AssertionError("asked")

    app = make_shop(real, scheduler=Push())
    async with sandbox(app) as jobs:
        assert len(await jobs.advance(days=2)) == 2
        assert (await app.health())["problems"] == {}


async def test_the_service_starts_the_app_itself(app: Aether) -> None:
    """As the lifespan of a web service does."""
    with sandbox(app) as jobs:
        with pytest.raises(NotStarted):
            await app.enqueue("Print", payload="text")
        async with app:
            await app.enqueue("Print", "page", "text")
            assert [ran.job_name for ran in await jobs.drain()] == ["page"]
        async with app:
            assert [job.job_name for job in await jobs.completed()] == ["page"], "the same store until the block ends"
            assert len(await jobs.advance(days=3)) == 3


# -- overrides -------------------------------------------------------------------------------------


async def test_an_override_by_factory_is_made_and_closed_for_each_attempt(app: Aether) -> None:
    made: list[str] = []

    async def printer() -> Any:
        made.append("open")
        yield Printer()
        made.append("closed")

    async with sandbox(app, override={Printer: printer}) as jobs:
        for _ in range(2):
            await app.enqueue("Print", payload="text")
        await jobs.drain()
    assert sorted(made) == ["closed", "closed", "open", "open"]


async def test_an_override_by_class_is_injected_itself(app: Aether) -> None:
    seen: list[Any] = []

    class Fake:
        def __init__(self, printer: Printer) -> None:
            self.printer = printer

        def send(self, mail: Mail) -> None:
            seen.append(self.printer)

    async with sandbox(app, override={Mailer: Fake}) as jobs:
        await app.enqueue("SendEmail", payload=Mail("ada"))
        await jobs.drain()
    assert isinstance(seen[0], Printer)


@pytest.mark.parametrize("mock", [MagicMock, AsyncMock, lambda: MagicMock(spec=FakeMailer())])
async def test_a_mock_is_the_thing_itself(app: Aether, mock: Any) -> None:
    """Though it can be called."""
    fake = mock()
    fake.send = MagicMock()
    async with sandbox(app, override={Mailer: fake}) as jobs:
        await app.enqueue("SendEmail", payload=Mail("ada"))
        await jobs.drain()
    fake.send.assert_called_once_with(Mail("ada"))


async def test_a_fake_that_is_a_context_manager_is_not_entered(app: Aether) -> None:
    class Fake(FakeMailer):
        def __enter__(self) -> FakeMailer:
            raise AssertionError("entered")

        def __exit__(self, *_: object) -> None: ...

    fake = Fake()
    async with sandbox(app, override={Mailer: fake}) as jobs:
        for _ in range(2):
            await app.enqueue("SendEmail", payload=Mail("ada"))
        await jobs.drain()
    assert len(fake.sent) == 2


async def test_an_override_that_no_handler_uses(app: Aether) -> None:
    class Mailer:  # of the same name, but another one
        pass

    before = dict(vars(app))
    with pytest.raises(InvalidOption, match=r"override of .*Mailer.*nothing provides it\. Is it another class"):
        async with sandbox(app, override={Mailer: FakeMailer()}):
            pass
    assert vars(app) == before


async def test_what_only_the_test_provides(real: Path, mailer: FakeMailer) -> None:
    """`provide` may stand in a main() that tests never call."""
    app = Aether(real, scheduler="timer")

    @app.handler("SendEmail")
    async def send_email(mail: Mail, mailer: Mailer) -> None:
        mailer.send(mail)

    async with sandbox(app, override={Mailer: mailer}) as jobs:
        await app.enqueue(send_email, payload=Mail("ada"))
        await jobs.drain()
    assert len(mailer.sent) == 1
    with pytest.raises(UnresolvedDependency):
        async with sandbox(app):
            pass


# -- refusals --------------------------------------------------------------------------------------


async def test_a_running_app_is_refused(tmp_path: Path) -> None:
    app = make_shop(tmp_path / "jobs.db")
    async with app:
        before = dict(vars(app))
        with pytest.raises(AlreadyStarted, match="it runs already"):
            async with sandbox(app):
                pass
        assert vars(app) == before
    async with sandbox(app):
        with pytest.raises(AlreadyStarted):
            async with sandbox(app):
                pass
        with pytest.raises(AlreadyStarted, match="before the start"):
            app.provide(Printer)


async def test_a_start_that_fails_leaves_the_app_as_it_was(real: Path) -> None:
    app = make_shop(real)
    app.declare("Nobody", "job")
    before = dict(vars(app))
    with pytest.raises(Exception, match="Nobody"):
        async with sandbox(app):
            pass
    assert vars(app) == before


async def test_an_error_in_the_block_leaves_the_app_as_it_was(app: Aether) -> None:
    before = dict(vars(app))
    with pytest.raises(ZeroDivisionError):
        async with sandbox(app):
            raise ZeroDivisionError
    assert vars(app) == before


async def test_a_clock_that_does_not_move_is_refused(app: Aether) -> None:
    with pytest.raises(InvalidOption, match=r"clock must be a FakeClock, got "):
        sandbox(app, clock=datetime.now(UTC))  # type: ignore[arg-type]


async def test_errors_are_those_of_the_app(app: Aether) -> None:
    async with sandbox(app) as jobs:
        await app.enqueue("Print", "page", "text")
        with pytest.raises(JobConflict):
            await app.enqueue("Print", "page", "other")
        await app.delete("page")
        assert (await jobs.drain()) == []
        (job,) = await app.store.find(handler_name="Print")
        assert job.status is JobStatus.CANCELLED


async def test_what_fails_before_the_handler_is_not_passed_over() -> None:
    """A wrap that refuses, a payload that cannot be decoded."""

    class Tenant:
        @hookimpl(trylast=True)
        @asynccontextmanager
        async def dispatch_wrap(self, ctx: JobContext) -> AsyncIterator[None]:
            if ctx.job.job_name == "refused":
                raise LookupError("no such tenant")
            yield

    class Codec:
        def encode(self, payload: Any, about: About) -> Any:
            return {"sealed": payload}

        def decode(self, stored: Any, about: About) -> Any:
            return stored["key"] if stored["sealed"] == "lost" else stored["sealed"]

    class Sealed:
        @hookimpl
        def dispatch_codec(self) -> Codec:
            return Codec()

    app = Aether(":memory:", scheduler="timer", plugins=[Tenant(), Sealed()])
    app.handler("Work")(lambda payload: None)
    async with sandbox(app) as jobs:
        await app.enqueue("Work", "refused", "x")
        with pytest.raises(JobFailed, match="no such tenant"):
            await jobs.drain()
        await app.enqueue("Work", "undecodable", "lost")
        with pytest.raises(JobFailed, match=r"undecodable.*cannot be decoded"):
            await jobs.drain()
        await app.enqueue("Work", "fine", "x")
        assert [ran.job_name for ran in await jobs.drain()] == ["fine"], "each failure is reported once"


async def test_one_sandbox_at_a_time_and_no_longer_than_its_app(app: Aether, mailer: FakeMailer) -> None:
    before = dict(vars(app))
    with sandbox(app, override={Mailer: mailer}), pytest.raises(UsageError, match="in a sandbox already"):
        sandbox(app).__enter__()
    assert vars(app) == before
    left = sandbox(app, override={Mailer: mailer})
    left.__enter__()
    await app.__aenter__()
    session = app._session
    with pytest.raises(UsageError, match="its app runs still"):
        left.__exit__(None, None, None)
    assert vars(app) == before
    assert session is not None
    await session.stop()
