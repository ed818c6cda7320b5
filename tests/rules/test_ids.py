"""Ids: in order, of version 7, and unique over threads and processes."""

from __future__ import annotations

import os
import threading
import time
from uuid import UUID

import pytest

from aether_bg._rules import ids
from aether_bg._rules.ids import uuid7

MANY = 2000
"""More than are provided for at once."""


def test_each_is_later_than_the_one_before() -> None:
    made = [uuid7() for _ in range(MANY)]
    assert made == sorted(set(made))


def test_the_layout_is_that_of_the_rfc() -> None:
    before = time.time_ns() // 1_000_000
    made = [uuid7() for _ in range(MANY)]
    after = time.time_ns() // 1_000_000
    assert {(one.version, one.variant) for one in made} == {(7, UUID(int=2 << 62).variant)}
    assert all(before <= one.int >> 80 <= after + 1 for one in made)


def test_every_bit_of_chance_is_used() -> None:
    chances = [uuid7().int & (1 << 62) - 1 for _ in range(MANY)]
    for bit in range(62):
        ones = sum(chance >> bit & 1 for chance in chances)
        assert MANY / 4 < ones < MANY * 3 / 4, bit


def test_threads_share_no_id() -> None:
    made: list[UUID] = []
    threads = [threading.Thread(target=lambda: made.extend([uuid7() for _ in range(MANY)])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8 * MANY


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # other tests leave threads behind
def test_a_forked_child_draws_chances_of_its_own() -> None:
    uuid7()
    if not ids._chances:
        uuid7()
    assert ids._chances, "what the parent has in store would be the child's too"
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, b"".join(uuid7().bytes[8:] for _ in range(100)))
        finally:
            os._exit(0)  # the parent reports what is missing
    os.close(write)
    with os.fdopen(read, "rb") as end:
        told = end.read()
    assert os.waitpid(child, 0)[1] == 0
    theirs = {told[start : start + 8] for start in range(0, len(told), 8)}
    assert len(theirs) == 100
    assert not theirs & {uuid7().bytes[8:] for _ in range(MANY)}
