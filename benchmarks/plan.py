"""What is measured, of whom, how large and how often; the default run and the quick one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

PEERS = ("huey", "tinyjobs", "apscheduler")
SERVER_PEERS = ("pgqueuer", "oban", "procrastinate")
BACKLOGS = (1_000, 10_000, 100_000, 1_000_000)


@dataclass(frozen=True)
class Step:
    """One figure of one system at one size: a process. `rounds`: how often, in the default run and in the quick one."""

    system: str
    figure: str
    size: int
    quick: int
    rounds: tuple[int, int] = (5, 2)

    @property
    def key(self) -> str:
        return f"{self.system}.{self.figure}" + (f".{self.size}" if self.figure == "backlog" else "")

    def repeats(self, quick: bool) -> int:
        return self.rounds[quick]

    def sized(self, quick: bool) -> int:
        return self.quick if quick else self.size


STEPS = (
    Step("raw", "speed", 3000, 1000),
    Step("raw", "speed_alike", 3000, 1000),
    Step("aether", "speed", 3000, 1000),
    Step("huey", "speed", 2000, 500),
    Step("tinyjobs", "speed", 1500, 500),
    Step("apscheduler", "speed", 1000, 300),
    Step("raw", "latency", 150, 60),
    Step("aether", "latency", 150, 60),
    Step("huey", "latency", 150, 60, (3, 1)),
    Step("tinyjobs", "latency", 150, 60, (3, 1)),
    Step("apscheduler", "latency", 150, 60, (3, 1)),
    Step("aether", "kernel", 10_000, 3000),
    Step("aether", "import", 7, 3),
    Step("aether", "recovery", 5, 2, (1, 1)),
    Step("aether", "lateness", 1000, 1000, (2, 1)),
    Step("aether", "idle", 20, 5, (2, 1)),
    Step("aether", "plain", 4000, 1000, (3, 1)),
    Step("aether", "bulk", 20_000, 5000, (3, 1)),
    Step("aether", "payloads", 4000, 1000, (2, 1)),
    Step("aether", "retries", 4000, 500, (2, 1)),
    Step("aether", "recurring", 10_000, 1000, (1, 1)),
    Step("aether", "processes", 20_000, 3000, (2, 1)),
    Step("aether", "limits", 600, 100, (2, 1)),
    Step("huey", "limits", 2000, 500, (2, 1)),
    *(Step("aether", "backlog", size, size, (3, 1)) for size in BACKLOGS),
)

SERVER_STEPS = (
    Step("raw_postgres", "speed", 2000, 500),
    Step("raw_postgres", "speed_alike", 2000, 500),
    Step("aether_postgres", "speed", 3000, 1000),
    Step("pgqueuer", "speed", 3000, 1000),
    Step("oban", "speed", 1500, 300, (3, 1)),
    Step("procrastinate", "speed", 800, 200, (3, 1)),
    Step("raw_postgres", "latency", 150, 60),
    Step("aether_postgres", "latency", 150, 60),
    Step("pgqueuer", "latency", 150, 60, (3, 1)),
    Step("oban", "latency", 150, 60, (3, 1)),
    Step("procrastinate", "latency", 150, 60, (3, 1)),
    Step("aether_postgres", "lateness", 1000, 1000, (2, 1)),
    Step("aether_postgres", "idle", 20, 5, (2, 1)),
    Step("aether_postgres", "recovery", 50, 3, (1, 1)),
)


@dataclass(frozen=True)
class Comparison:
    """Who is measured, and beside whom."""

    ours: str
    raw: str
    peers: tuple[str, ...]
    steps: tuple[Step, ...]

    def chosen(self, only: list[str]) -> list[Step]:
        """The steps that have one of these words in their name (`aether.backlog`), or all."""
        return [step for step in self.steps if not only or any(word in step.key for word in only)]


ON_A_FILE = Comparison("aether", "raw", PEERS, STEPS)
ON_A_SERVER = Comparison("aether_postgres", "raw_postgres", SERVER_PEERS, SERVER_STEPS)


def rounds(steps: list[Step], quick: bool) -> Iterator[Step]:
    """All steps of one round, then the next round: who is compared is measured close together in time."""
    for number in range(max(step.repeats(quick) for step in steps)):
        yield from (step for step in steps if number < step.repeats(quick))
