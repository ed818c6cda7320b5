"""Answers that are kept: who waits for them, and when they are asked for again."""

from __future__ import annotations

from datetime import UTC, datetime

import anyio
import pytest

from aether_bg import Aether
from aether_bg.errors import StoreError
from aether_bg.ext.web import _cache
from aether_bg.ext.web._cache import Cached, ready
from aether_bg.ext.web._source import source_of

pytestmark = pytest.mark.anyio


class Question:
    """Counts how often it is asked; `open`: answers may be given."""

    def __init__(self) -> None:
        self.asked, self.open, self.error = 0, anyio.Event(), False

    async def __call__(self) -> tuple[int, datetime]:
        self.asked += 1
        number = self.asked
        await self.open.wait()
        if self.error:
            raise StoreError("database x", "it does not answer", "Wait.")
        return number, datetime.now(UTC)


async def settle() -> None:
    await anyio.wait_all_tasks_blocked()


async def test_a_page_waits_a_moment_for_all_first_answers_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cache, "PATIENCE", 0.01)
    questions = [Question() for _ in range(4)]
    kept = [Cached(one, 60, anyio.Lock()) for one in questions]
    await ready(*kept)
    assert [one.kept.pending for one in kept] == [True] * 4
    assert [one.asked for one in questions] == [1] * 4
    await ready(*kept)
    assert [one.asked for one in questions] == [1] * 4  # still on its way
    for question in questions:
        question.open.set()
    await settle()
    assert [one.kept.value for one in kept] == [1] * 4
    await ready(*kept)
    assert [one.asked for one in questions] == [1] * 4  # kept


async def test_questions_behind_one_gate_are_asked_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cache, "PATIENCE", 0.01)
    gate, questions = anyio.Lock(), [Question(), Question()]
    kept = [Cached(one, 60, gate) for one in questions]
    await ready(*kept)
    assert sorted(one.asked for one in questions) == [0, 1]
    for question in questions:
        question.open.set()
    await settle()
    assert [one.asked for one in questions] == [1, 1]


async def test_pages_on_the_same_jobs_share_a_gate() -> None:
    jobs, others = (Aether(":memory:", scheduler="timer") for _ in range(2))
    assert source_of(jobs).gate is source_of(jobs).gate
    assert source_of(jobs).gate is not source_of(others).gate


async def test_after_a_change_a_page_waits_for_what_is_true_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cache, "PATIENCE", 5.0)
    question = Question()
    question.open.set()
    kept = Cached(question, 60, anyio.Lock())
    await ready(kept)
    kept.forget()
    await ready(kept)
    assert kept.kept.value == 2


async def test_a_change_while_an_answer_is_on_its_way_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cache, "PATIENCE", 0.01)
    question = Question()
    kept = Cached(question, 60, anyio.Lock())
    await ready(kept)
    kept.forget()  # the answer may be from before
    question.open.set()
    await settle()
    assert kept.kept.value == 1
    await ready(kept)
    await settle()
    assert kept.kept.value == 2


async def test_an_error_takes_the_place_of_the_answer_until_there_is_one() -> None:
    question = Question()
    question.error = True
    question.open.set()
    kept = Cached(question, 60, anyio.Lock())
    await ready(kept)
    assert "it does not answer" in str(kept.kept.error)
    assert not kept.kept.pending
    question.error = False
    kept.forget()
    await ready(kept)
    assert (kept.kept.value, kept.kept.error) == (2, None)
