"""Async tests: `pip install pytest`, then `pytest test_async.py`. The fixtures come with aether_bg by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import newsletter
import pytest
from newsletter import Mailer, app

from aether_bg import JobStatus
from aether_bg.testing import FakeClock, JobFailed, Sandbox

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_readers() -> Iterator[None]:
    yield
    newsletter.readers.clear()


class FakeMailer:
    def __init__(self) -> None:
        self.sent: list[str] = []
        self.down = False

    async def send(self, to: str, subject: str) -> None:
        if self.down:
            raise ConnectionError("the mail server is down")
        self.sent.append(f"{to}: {subject}")


async def test_a_reader_is_welcomed(aether_sandbox: Callable[..., Sandbox]) -> None:
    mailer = FakeMailer()
    async with aether_sandbox(app, override={Mailer: mailer}) as jobs:
        await newsletter.sign_up("ada@example.org")  # uses the global `app`, which is the sandbox here
        await jobs.assert_enqueued("Welcome", payload={"to": "ada@example.org"})
        assert mailer.sent == []  # nothing runs by itself

        await jobs.drain()
        assert mailer.sent == ["ada@example.org: Welcome!"]


async def test_a_year_of_mondays(aether_sandbox: Callable[..., Sandbox], aether_clock: FakeClock) -> None:
    mailer = FakeMailer()
    async with aether_sandbox(app, override={Mailer: mailer}) as jobs:
        newsletter.readers.append("ada@example.org")
        ran = await jobs.advance(days=365)  # the clock stops at each due instant, and runs what is due
        assert len(ran) == len(mailer.sent) == 52
        assert {(each.run.occurrence.strftime("%a %H:%M")) for each in ran if each.run.occurrence} == {
            "Mon 08:00",  # winter, in UTC
            "Mon 07:00",  # summer
        }


async def test_a_mail_server_that_is_down(aether_sandbox: Callable[..., Sandbox]) -> None:
    mailer = FakeMailer()
    async with aether_sandbox(app, override={Mailer: mailer}) as jobs:
        mailer.down = True
        await newsletter.sign_up("ada@example.org")
        with pytest.raises(JobFailed, match="the mail server is down"):
            await jobs.drain()

        mailer.down = False
        await jobs.advance(minutes=1)  # the retry waits a minute
        (job,) = await jobs.assert_enqueued("Welcome")
        assert (job.status, job.retry_count) == (JobStatus.COMPLETED, 1)
