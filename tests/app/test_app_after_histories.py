"""Over random histories every child runs after its parents (docs/protocol.md, A)."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aether_bg import Aether, InvalidTransition, JobConflict, JobStatus
from aether_bg.plugins.memory import MemoryStore
from aether_bg.testing import sandbox

VERBS = ("delete", "retry", "pause", "resume", "trigger", "complete", "fail", "purge", "drain")
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("enqueue"), st.lists(st.integers(0, 12), max_size=4), st.booleans(), st.booleans(),
            st.sampled_from([0, 60]),
        ),
        st.tuples(st.sampled_from(VERBS), st.integers(0, 12)),
    ),
    max_size=24,
)  # fmt: skip


@pytest.mark.parametrize("store", ["memory", "file"])
def test_every_child_runs_after_its_parents(request: pytest.FixtureRequest, store: str) -> None:
    examples = (30, 8) if request.config.getoption("--thorough") else (15, 4)

    @settings(max_examples=examples[store == "file"], deadline=None, suppress_health_check=list(HealthCheck))
    @given(steps)
    def check(history: list[Any]) -> None:
        anyio.run(_play, history, store)

    check()


async def _play(history: list[Any], store: str) -> None:
    app = Aether(MemoryStore() if store == "memory" else ":memory:")
    parents_of: dict[UUID, tuple[list[UUID], bool]] = {}

    @app.handler("Work")
    async def work(fails: bool, ctx: Any = None) -> None:
        if fails:
            raise ValueError("boom")

    async def starts() -> None:
        for job in await jobs.store.find(limit=100):
            parents, after_any = parents_of[job.id]
            if (job.status is JobStatus.SCHEDULED and not job.waits_for) or job.attempt:
                for parent in [await jobs.store.get(id_) for id_ in parents]:
                    ended = parent is None or parent.handled_time is not None
                    assert ended, "it is free to run, and its parent has never ended"
            elif job.status is JobStatus.SCHEDULED:
                rows = [await jobs.store.get(id_) for id_ in parents]
                active = [row for row in rows if row is not None and not row.status.terminal]
                assert 0 < job.waits_for <= len(active), "it waits for what has ended"
                if not after_any:
                    assert not any(row.status in (JobStatus.FAILED, JobStatus.CANCELLED) for row in rows if row)

    async with sandbox(app) as jobs:
        for verb, *how in history:
            made = [id_ for id_ in parents_of if await jobs.store.get(id_) is not None]
            match verb:
                case "enqueue":
                    indexes, after_any, fails, delay = how
                    after = list(dict.fromkeys(made[i] for i in indexes if i < len(made)))
                    job = await jobs.enqueue(
                        "Work", payload=fails, schedule=timedelta(seconds=delay), after=after, after_any=after_any
                    )
                    parents_of[job] = after, after_any
                case "drain":
                    jobs.clock.advance(seconds=how[0] * 10)
                    await jobs.drain(raise_errors=False)
                case "purge":
                    await jobs.store.purge()
                case _ if how[0] < len(made):
                    by_hand = {"complete": JobStatus.COMPLETED, "fail": JobStatus.FAILED}
                    with suppress(InvalidTransition, JobConflict):
                        if verb in by_hand:
                            await jobs.store.update_status(made[how[0]], by_hand[verb])
                        else:
                            await getattr(jobs, verb)(made[how[0]])
            await starts()
