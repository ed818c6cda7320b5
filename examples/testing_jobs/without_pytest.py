"""The same with unittest alone: `python without_pytest.py`."""

from __future__ import annotations

import unittest
from unittest.mock import AsyncMock

from newsletter import Mailer, app, sign_up

from aether_bg.testing import sandbox


class NewsletterTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        self.mailer = AsyncMock()
        self.jobs = await self.enterAsyncContext(sandbox(app, override={Mailer: self.mailer}))

    async def test_a_reader_is_welcomed(self) -> None:
        await sign_up("ada@example.org")
        await self.jobs.drain()
        self.mailer.send.assert_awaited_once_with("ada@example.org", "Welcome!")

    async def test_nobody_is_welcomed_twice(self) -> None:
        await sign_up("ada@example.org")
        await sign_up("ada@example.org")
        await self.jobs.assert_enqueued("Welcome", count=1)


if __name__ == "__main__":
    unittest.main()
