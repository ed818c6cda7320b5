"""Each mutant breaks one rule, and the programme says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chaos.checker import Violation
from chaos.harness import World
from chaos.test_owners import stop_for_three_leases
from chaos.test_triggers import longer_than_the_period
from chaos.test_units import break_batches
from chaos.test_units import impatient as impatient


def caught(what: Callable[[], Any], by: type[AssertionError], saying: str) -> str:
    with pytest.raises(by, match=saying) as told:
        what()
    lines = str(told.value).splitlines()
    return f"caught: {lines[min(len(lines) - 1, by is Violation)][:100]}"


@pytest.mark.row(0, small=4, full=4)
def test_without_the_token_guard(world: World, count: int, note: Callable[[str], None]) -> None:
    note(
        caught(
            lambda: stop_for_three_leases(world, count, "no token guard"),
            Violation,
            "(?s)(completed 2 times|terminal state left|ended twice|effect without Completed)",
        )
    )


@pytest.mark.alone
@pytest.mark.row(0, small=10, full=20)
def test_without_the_owner_check(world: World, count: int, note: Callable[[str], None]) -> None:
    note(
        caught(
            lambda: stop_for_three_leases(world, count, "no owner check"),
            AssertionError,
            "counted as crashed though their process lived",
        )
    )


@pytest.mark.row(0, small=12, full=12)
@pytest.mark.usefixtures("impatient")
def test_a_broken_batch_is_continued(world: World, count: int, note: Callable[[str], None]) -> None:
    note(
        caught(lambda: break_batches(world, count, "continues a broken batch"), AssertionError, "acknowledged and gone")
    )


@pytest.mark.row(0, small=3, full=3)
def test_the_next_occurrence_is_armed_at_the_claim(world: World, count: int, note: Callable[[str], None]) -> None:
    note(
        caught(
            lambda: longer_than_the_period(world, count, "push", "arms at claim"), AssertionError, "did not come within"
        )
    )
