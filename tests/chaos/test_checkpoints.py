"""Killed between checkpoints: row 43 of the table."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from chaos.harness import World

STEPS, JOBS = 120, 6


@pytest.mark.row(43, small=6, full=60)
def test_work_goes_on_after_the_last_checkpoint(world: World, count: int, note: Callable[[str], None]) -> None:
    """docs/protocol.md, G2: what a returned call has kept is there, and at most one step more."""
    chance, resumes, killed = random.Random(43), 0, 0
    while killed < count:
        batch = [
            {"handler": "steps", "name": f"steps-{killed}-{n}", "payload": {"steps": STEPS}} for n in range(JOBS)
        ]  # fmt: skip
        worker = world.ready(enqueue=batch)
        for _ in range(3):
            before = len(world.find("kept"))
            world.until(lambda: len(world.find("kept")) > before + 2 * JOBS, 60, what="more checkpoints")  # noqa: B023
            time.sleep(chance.uniform(0, 0.03))
            worker.end()
            killed += 1
            worker = world.ready()
        acks = {e["job"] for e in world.find("ack")}
        ended = lambda: {e["job"] for e in world.find("end", how="returned")}  # noqa: E731
        world.until(lambda: acks <= ended(), 120, what="the end of all jobs")  # noqa: B023
        worker.end()
    world.settle(60)
    world.check()
    kept: dict[str, int] = {}
    for event in world.events():
        if event["event"] == "resumed":
            last = kept.get(event["job"], 0)
            assert last <= event["step"] <= last + 1, f"{event} after step {last}"
            resumes += event["step"] > 0
        elif event["event"] == "kept":
            kept[event["job"]] = event["step"]
    assert set(kept.values()) == {STEPS}
    assert world.sql("SELECT count(*) FROM aether_jobs WHERE checkpoint IS NOT NULL") == [(0,)]
    assert world.sql("SELECT count(*) FROM aether_jobs WHERE progress NOT LIKE ?", f'%"done":{STEPS},%') == [(0,)]
    assert resumes >= killed, "the kills hit no job in its middle"
    note(f"{killed} kills, {resumes} attempts went on from a checkpoint")
