"""Row 44: killed around the outcome of a parent: no child is lost, and none runs early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chaos.harness import World

PARENTS = 4
UNRELEASED = """
SELECT children.job_name FROM aether_jobs AS children JOIN aether_runs AS runs ON runs.job_id = children.id
WHERE children.parents > 0 GROUP BY children.id HAVING min(runs.token) < 2
"""
"""A row begins with `seq` 0, its release takes one and its claim the next: those whose first claim came earlier."""
LEFT = "SELECT job_name, status, waits_for FROM aether_jobs WHERE status <> 2"


def a_tree(prefix: str) -> list[dict[str, Any]]:
    """Four parents, a child of all of them, one of that, and one that runs after any end."""
    kinds = ("quick", "effect", "sync", "flaky")
    parents = [
        {"handler": kinds[n % 4], "name": f"{prefix}-parent-{n}", "payload": {"ms": 20 * n}} for n in range(PARENTS)
    ]
    names = [parent["name"] for parent in parents]
    return [
        *parents,
        {"handler": "effect", "name": f"{prefix}-child", "after": names},
        {"handler": "quick", "name": f"{prefix}-grandchild", "after": [f"{prefix}-child", names[0]]},
        {"handler": "quick", "name": f"{prefix}-anyway", "after": [f"{prefix}-child"], "after_any": True},
    ]


@pytest.mark.parametrize("moment", ["after claim", "mid-handler", "before commit", "in commit", "after commit"])
@pytest.mark.row(44, small=3, full=25)
def test_killed_around_the_outcome_of_a_parent(
    world: World, count: int, moment: str, note: Callable[[str], None]
) -> None:
    for number in range(count):
        put = world.start("put", enqueue=a_tree(f"t{number}"))
        assert put.wait(30) == 0, put.tail()
        process = world.start(moment=moment, nth=1 + number % 5, seed=number)
        assert process.wait(30) == -9, process.tail()
    world.settle(60)
    world.check(overlaps=False)
    assert len({e["pid"] for e in world.find("killed")}) == count
    assert world.sql(LEFT) == []
    assert world.sql(UNRELEASED) == []
    starts = world.find("parents")
    assert len({start["job"] for start in starts}) == 3 * count
    assert [start for start in starts if start["left"]] == []
    links = world.sql("SELECT count(*), sum(waiting) FROM aether_links")
    assert links == [(count * (PARENTS + 3), 0)]
    note(f"{count} kills, {links[0][0]} links, none left waiting")
