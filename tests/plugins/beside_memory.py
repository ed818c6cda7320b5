"""A store beside `MemoryStore`: both are asked the same, at random, and must answer the same."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import attrs

from aether_bg import Aether, JobInfo, JobStatus
from aether_bg.model import Claim, Claimed, Failures, Heartbeat, Hold, Insert, Purge, Query
from aether_bg.plugins.memory import MemoryStore
from aether_bg.testing.contracts.values import a_job, ago, now


class Both:
    """Asks two stores the same, and compares the answers."""

    def __init__(self, one: Any, two: Any) -> None:
        self._stores = one, two

    async def ask(self, hook: str, *given: Any) -> Any:
        one, two = [await getattr(store, f"store_{hook}")(*given) for store in self._stores]
        assert plain(one) == plain(two), (hook, given)
        return one

    async def claim(self, claim: Claim) -> None:
        """What a claim says beside its rows counts only where it is not full, and asks for more than one row."""
        one, two = [await store.store_claim(claim) for store in self._stores]
        assert plain(one.jobs) == plain(two.jobs), claim
        if claim.job_id is None and len(one.jobs) < claim.limit and not _alone(one):
            assert one.next_due == two.next_due, claim

    async def insert(self, inserts: Sequence[Insert]) -> None:
        """A store says of all writes together which children they have settled."""
        one, two = [await store.store_transact([*inserts]) for store in self._stores]
        assert _settled(one) == _settled(two)


def plain(answer: Any) -> Any:
    if isinstance(answer, JobInfo):
        return vars(answer)
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        return [plain(item) for item in answer]
    if not attrs.has(type(answer)):
        return answer
    answer = {name: plain(value) for name, value in attrs.asdict(answer, recurse=False).items()}
    return {name: value for name, value in answer.items() if name not in ("store_id", "size")}


def some_jobs(rng: random.Random) -> list[Insert]:
    inserts = list[Insert]()
    for n in range(80):
        status = rng.choice(list(JobStatus))
        ended, holds = status.terminal, not status.terminal or rng.random() < 0.5
        before = [insert.job.id for insert in inserts]
        after = tuple(rng.sample(before, rng.randint(1, 3))) if n > 5 and rng.random() < 0.3 else ()
        job = a_job(
            f"n{n}" if holds else f"n{rng.randint(0, 5)}", status=status, handler_name=rng.choice("ABC"),
            due_at=None if ended else ago(rng.choice([-500, -400, 0, 5, 5, 100])), holds_name=holds,
            handled_time=ago(rng.randint(0, 20)) if ended and rng.random() < 0.8 else None,
            paused=rng.random() < 0.2, manual=rng.random() < 0.1, armed_seq=rng.choice([-1, 0]),
            priority=rng.choice([-100, 0, 0, 100]), crash_count=rng.choice([0, 0, 2]), declared=rng.random() < 0.2,
            timezone=rng.choice([None, "UTC"]), owner=uuid4() if status is JobStatus.RUNNING else None,
            last_error=rng.choice([None, "x\ny"]), parents=len(after),
        )  # fmt: skip
        inserts.append(Insert(job, after))
    return inserts


def a_query(rng: random.Random, jobs: Sequence[JobInfo]) -> Query:
    """Some fields of it, each now and then."""
    ids = [job.id for job in jobs]
    fields: dict[str, Any] = {
        "ids": tuple(rng.sample(ids, 10)), "job_name": rng.choice(jobs).job_name,
        "holders": tuple(job.job_name for job in rng.sample(jobs, 3)), "handler_name": rng.choice("ABCD"),
        "status": tuple(rng.sample(list(JobStatus), 2)), "owner": rng.choice(jobs).owner,
        "due_before": ago(rng.choice([-600, -450, 0, 5])), "unarmed": True, "changed_after": ago(5), "zoned": True,
        "paused": True, "recurring": True, "declared": True, "error_line": "x", "name_prefix": "n1",
        "parents_of": rng.choice(ids), "children_of": rng.choice(ids), "limit": rng.randint(1, 20),
        "order": rng.choice(["created", "newest", "due", "ended"]), "after": rng.choice([*ids, uuid4()]),
    }  # fmt: skip
    often = {"order": 0.7, "limit": 0.4, "after": 0.3}
    return Query(**{name: value for name, value in fields.items() if rng.random() < often.get(name, 0.12)})


def a_claim(rng: random.Random, owner: Any, jobs: Sequence[JobInfo]) -> Claim:
    about: dict[str, Any] = {"owner": owner, "now": now(), "suspect": rng.random() < 0.5}
    about |= {"limit": rng.randint(1, 6), "handlers": tuple(rng.sample("ABC", rng.randint(1, 3)))}
    about |= {"limits": {"A": rng.randint(5, 25)}, "busy": frozenset(rng.sample("ABC", 1))}
    exact = rng.choice(jobs)
    return Claim(**about, **rng.choice([{"kept": 1}, {"job_id": exact.id, "seq": exact.seq}]))


def _alone(claimed: Claimed) -> bool:
    """It took a suspect, so other suspects must wait: a store may say when they are due, or not."""
    return any(job.suspect for job in claimed.jobs)


def _settled(results: Sequence[Any]) -> list[str]:
    return sorted(str(child) for result in results if result for child in result)


async def agree(other: Any, seed: int) -> None:
    rng, memory = random.Random(seed), MemoryStore()
    async with Aether(memory).client(), Aether(other).client():
        both, inserts = Both(memory, other), some_jobs(rng)
        await both.insert(inserts)
        await both.ask("transact", [Hold(handler="B", held=True, at=now())])
        jobs = await both.ask("find", Query())
        for _ in range(200):
            await both.ask("find", a_query(rng, jobs))
        await both.ask("failures", Failures())
        me = uuid4()
        beat = Heartbeat(owner=me, handlers=("A",), now=now(), interval=5, keep_for=60, join=True)
        for store in (memory, other):
            assert (await store.store_heartbeat(beat)).known
        for _ in range(20):
            await both.claim(a_claim(rng, me, jobs))
        await both.ask("stats")
        for _ in range(20):
            status = rng.choice(list(JobStatus))
            bounds: dict[str, Any] = {"before": ago(rng.randint(0, 20)), "keep": rng.randint(0, 5)}
            bounds = {name: value for name, value in bounds.items() if rng.random() < 0.5}
            limit = rng.randint(1, 4) if bounds else 1000  # without bounds, any of those that never ended go first
            await both.ask("purge", Purge(status=status, limit=limit, **bounds))
            await both.ask("find", Query())
