"""Who has stood still for a lease: only while the observer itself beats (docs/protocol.md, P3 and P6)."""

from __future__ import annotations

from uuid import UUID

import pytest

from aether_bg._upkeep.standstill import Standstill

ME, OTHER, THIRD = (UUID(int=n) for n in (1, 2, 3))


class Watch:
    """Looks each 0.3 s, owners beat each third of the lease while `beating` holds for them."""

    def __init__(self, lease: float, look: float = 0.3) -> None:
        self.lease, self.look = lease, look
        self.standstill = Standstill(lease)
        self.now = 1000.0
        self.beats = {ME: 0.0, OTHER: 0.0, THIRD: 0.0}

    def go(self, seconds: float, *beating: UUID) -> dict[UUID, float]:
        """Who was found dead, and how long after the beginning, first."""
        found: dict[UUID, float] = {}
        began = self.now
        while self.now - began < seconds:
            self.now += self.look
            for owner in beating:
                self.beats[owner] += 3 * self.look / self.lease
            beats = {owner: int(beat) for owner, beat in self.beats.items()}
            for owner in self.standstill.expired(beats, ME, self.now):
                found.setdefault(owner, self.now - began)
        return found


@pytest.mark.parametrize("lease", [1.0, 3.0, 15.0])
def test_one_that_stops_beating_has_expired_after_a_lease(lease: float) -> None:
    watch = Watch(lease)
    assert watch.go(3 * lease, ME, OTHER, THIRD) == {}
    found = watch.go(2 * lease, ME, THIRD)
    assert list(found) == [OTHER]
    assert lease * 2 / 3 < found[OTHER] < lease + 1.0


@pytest.mark.parametrize("lease", [1.0, 3.0, 15.0])
@pytest.mark.parametrize("leases", [0.3, 0.7, 1.0, 1.3, 2.0, 10.0])
def test_no_owner_expires_while_no_process_can_write(lease: float, leases: float) -> None:
    watch = Watch(lease)
    watch.go(2 * lease, ME, OTHER, THIRD)
    assert watch.go(leases * lease) == {}, "no beat is committed"
    assert watch.go(0.3 * lease, ME) == {}, "the observer is the first to write again"
    assert watch.go(3 * lease, ME, OTHER, THIRD) == {}


def test_one_that_died_meanwhile_expires_a_lease_later() -> None:
    watch = Watch(3.0)
    watch.go(6, ME, OTHER, THIRD)
    watch.go(6)
    found = watch.go(9, ME, OTHER)
    assert list(found) == [THIRD]
    assert 2.0 < found[THIRD] < 4.5


def test_what_was_seen_before_a_failed_look_does_not_count() -> None:
    watch = Watch(3.0)
    watch.go(6, ME, OTHER)
    watch.go(2.7, ME)
    watch.standstill.forget()
    watch.now += 60
    watch.beats[ME] += 60
    assert watch.go(2.7, ME) == {}
    assert OTHER in watch.go(3, ME)


def test_one_that_left_is_forgotten() -> None:
    watch = Watch(1.0)
    watch.go(1, ME, OTHER, THIRD)
    del watch.beats[OTHER]
    assert watch.go(1, ME, THIRD) == {}
    watch.beats[OTHER] = 0.0
    assert watch.go(0.9, ME, THIRD) == {}
