"""An operator's session: the verbs of an app on its store, from a process that runs no jobs and is no owner."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs

from aether_bg._app.session import Session

if TYPE_CHECKING:
    from aether_bg._app.aether import Aether
    from aether_bg._app.commands import Commands
    from aether_bg.model import JobInfo, Purge, Query, Stats, Write


@attrs.frozen
class Operator:
    """`verbs`: update, delete, retry, trigger, pause and resume, as guarded writes; the processes that run jobs see
    them as they see each other's."""

    _session: Session

    @property
    def verbs(self) -> Commands:
        return self._session.commands

    async def find(self, query: Query) -> Sequence[JobInfo]:
        return await self._session.kernel.shared.calls.find(query)

    async def stats(self) -> Stats:
        return await self._session.kernel.shared.calls.stats()

    async def write(self, writes: Sequence[Write]) -> None:
        """Rows as they are, in one transaction: for copies. Raises what the store raises."""
        await self._session.kernel.shared.calls.transact(writes)

    async def purge(self, purge: Purge) -> int:
        """One bounded part of it; how many went."""
        return await self._session.kernel.shared.calls.purge(purge)


@asynccontextmanager
async def operating(app: Aether) -> AsyncIterator[Operator]:
    """Open `app`'s store. No owner row, no declarations, no scheduler: a client with an owner's verbs."""
    async with app._session_of(client=True) as session:
        yield Operator(session)
