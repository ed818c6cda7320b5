"""The figures to reach, each from what was measured: value, target, met or missed."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from plan import BACKLOGS, Comparison

Best = dict[str, dict[str, float]]
"""Per step, its figures; of each the round that was least disturbed."""
_RATES = (".speed", ".speed_alike", ".plain", ".bulk", ".payloads", ".retries", ".recurring", ".processes", ".limits")
Yardstick = tuple[str, str, str]
"""A step, its figure, and what to call them."""


def best(found: dict[str, list[dict[str, float]]]) -> Best:
    def pick(step: str, name: str, values: list[float]) -> float:
        rate = step.endswith(_RATES) and name not in ("p50", "p99")
        return max(values) if rate else min(values)  # or a cost

    return {
        step: {name: pick(step, name, [round_[name] for round_ in rounds]) for name in rounds[0]}
        for step, rounds in found.items()
        if rounds
    }


@attrs.frozen
class Line:
    """One row of the table. `met` None: nothing is asked of it."""

    what: str
    value: str
    against: str = ""
    target: str = ""
    met: bool | None = None


class Table:
    """Lines for what was measured; a line whose figures are missing is left out."""

    def __init__(self, found: Best, among: Comparison) -> None:
        self._found, self._ours, self._peers = found, among.ours, among.peers
        self.lines: list[Line] = []

    def _add(self, make: Callable[[Best], Line]) -> None:
        try:
            self.lines.append(make(self._found))
        except (KeyError, ValueError):  # not measured in this run
            pass

    def ratio(self, what: str, name: str, yardstick: Yardstick, target: float) -> None:
        """`what`: a rate of ours, over one of `raw`; at least `target`."""

        def make(found: Best) -> Line:
            step, figure, whom = yardstick
            ours, theirs = found[f"{self._ours}.speed"][name], found[step][figure]
            return Line(
                what, f"{ours:,.0f}/s", f"{ours / theirs:.2f} × {whom} ({theirs:,.0f}/s)",
                f"≥ {target} ×" if target else "", ours / theirs >= target if target else None,
            )  # fmt: skip

        self._add(make)

    def peer(self, what: str, name: str, target: float) -> None:
        def make(found: Best) -> Line:
            ours = found[f"{self._ours}.speed"][name]
            theirs, who = max((found[f"{p}.speed"][name], p) for p in self._peers if f"{p}.speed" in found)
            return Line(
                what, f"{ours:,.0f}/s", f"{ours / theirs:.1f} × {who} ({theirs:,.0f}/s)", f"≥ {target:.0f} ×",
                ours / theirs >= target,
            )  # fmt: skip

        self._add(make)

    def rate(self, what: str, step: str, name: str, over: Yardstick | None = None, target: float = 0) -> None:
        """A rate of ours in one of the other loads, over another rate."""

        def make(found: Best) -> Line:
            ours = found[f"aether.{step}"][name]
            if over is None:
                return Line(what, f"{ours:,.0f}/s")
            theirs, asked = found[over[0]][over[1]], f"≥ {target} ×" if target else ""
            against = f"{ours / theirs:.2f} × {over[2]} ({theirs:,.0f}/s)"
            return Line(what, f"{ours:,.0f}/s", against, asked, ours / theirs >= target if target else None)

        self._add(make)

    def fastest(self) -> Yardstick | None:
        """The drain of the peer that drains fastest."""
        found = [(self._found[f"{p}.speed"]["drain"], p) for p in self._peers if f"{p}.speed" in self._found]
        return (f"{max(found)[1]}.speed", "drain", max(found)[1]) if found else None

    def most(self, what: str, step: str, name: str, unit: str, target: float, beside: Yardstick | None = None) -> None:
        """A cost of ours, at most `target`; `beside`: what is there to compare it with."""

        def make(found: Best) -> Line:
            value, against = found[step][name], ""
            if beside is not None and beside[0] in found:
                theirs = found[beside[0]][beside[1]]
                against = f"{value / theirs:.1f} × {beside[2]} ({theirs:,.2f} {unit})"
            return Line(what, f"{value:,.2f} {unit}", against, f"≤ {target:g} {unit}", value <= target)

        self._add(make)

    def grows(self, what: str, name: str, unit: str, times: float | None = None, more: float | None = None) -> None:
        """The largest backlog against the smallest: at most `times` as much, or `more` above it."""

        def make(found: Best) -> Line:
            few, many = (found[f"aether.backlog.{size}"][name] for size in (BACKLOGS[0], BACKLOGS[-1]))
            value = f"{few:.2f} → {many:.2f} {unit}"
            if times is not None:
                return Line(what, value, f"{many / few:.2f} ×", f"≤ {times} ×", many / few <= times)
            assert more is not None
            return Line(what, value, f"{many - few:+.1f} {unit}", f"≤ +{more:g} {unit}", many - few <= more)

        self._add(make)


def table(found: Best, among: Comparison) -> list[Line]:
    return on_a_server(found, among) if among.ours == "aether_postgres" else on_a_file(found, among)


def on_a_server(found: Best, among: Comparison) -> list[Line]:
    made = Table(found, among)
    one, many = ("raw_postgres.speed_alike", "enqueue", "raw, a commit each"), "raw, 100 a commit"
    made.ratio("enqueue, one at a time", "enqueue", one, 0.5)
    made.ratio("", "enqueue", ("raw_postgres.speed", "enqueue", "raw, narrow rows"), 0)
    made.ratio("enqueue, 64 at once", "enqueue_many", ("raw_postgres.speed_alike", "enqueue_many", many), 0.3)
    made.ratio("", "enqueue_many", ("raw_postgres.speed", "enqueue_many", "raw, narrow rows"), 0)
    made.ratio("drain, no-op coroutines", "drain", ("raw_postgres.speed_alike", "drain_many", many), 0.6)
    made.ratio("", "drain", ("raw_postgres.speed", "drain_many", "raw, narrow rows"), 0)
    made.ratio("", "drain", ("pgqueuer.speed", "drain", "PgQueuer"), 0.9)
    raw, alike = "raw_postgres.latency", "raw, a row and its claim"
    made.most("idle latency, p50", "aether_postgres.latency", "p50", "ms", 3, (raw, "p50", alike))
    made.most("idle latency, p99", "aether_postgres.latency", "p99", "ms", 10, (raw, "p99", alike))
    made.most("lateness of 1,000 in 10 s, p99", "aether_postgres.lateness", "p99", "ms", 10)
    made.most("recovery after kill -9, median", "aether_postgres.recovery", "median", "s", 1.5)
    made.most("recovery after kill -9, longest", "aether_postgres.recovery", "longest", "s", 1.5)
    made.most("idle process", "aether_postgres.idle", "cpu", "% CPU", 1)
    return made.lines


def on_a_file(found: Best, among: Comparison) -> list[Line]:
    made = Table(found, among)
    one, many = ("raw.speed", "enqueue", "raw, a commit each"), ("raw.speed", "enqueue_many", "raw, 100 a commit")
    alike_one = ("raw.speed_alike", "enqueue", "raw, our kind of rows")
    alike_many = ("raw.speed_alike", "enqueue_many", "raw, our kind of rows")
    idle = ("raw.latency", "p50", "raw, a row and its claim")
    made.ratio("enqueue, one at a time", "enqueue", one, 0.6)
    made.ratio("", "enqueue", alike_one, 0)
    made.peer("enqueue, 64 at once", "enqueue_many", 5)
    made.ratio("", "enqueue_many", many, 0.25)
    made.ratio("", "enqueue_many", alike_many, 0)
    made.rate("enqueue_many of 1,000", "bulk", "enqueue_many", many, 0.5)
    made.rate("unit of work of 1,000", "bulk", "unit", many, 0.5)
    made.peer("drain, no-op coroutines", "drain", 6)
    made.ratio("", "drain", ("raw.speed", "drain_many", "raw, 100 a commit"), 0.45)
    made.ratio("", "drain", ("raw.speed_alike", "drain_many", "raw, our kind of rows"), 0)
    made.rate("drain, plain functions in threads", "plain", "drain", made.fastest(), 3)
    made.rate("drain, four processes on one file", "processes", "drain_4", ("aether.processes", "drain_1", "one"), 1)
    lock = ("huey.limits", "limit_1", "Huey's lock")
    made.rate("5 ms each, four processes, one at a time", "limits", "limit_1", lock)
    made.rate("5 ms each, four processes, two at a time", "limits", "limit_2")
    for size in ("1k", "100k"):
        made.rate(f"enqueue_many, payloads of {size[:-1]} KiB", "payloads", f"enqueue_{size}")
        made.rate(f"drain, payloads of {size[:-1]} KiB", "payloads", f"drain_{size}")
    made.rate("jobs that fail once and are tried again", "retries", "jobs")
    made.rate("10,000 jobs of each second, runs", "recurring", "runs")
    made.most("idle latency, p50", "aether.latency", "p50", "ms", 0.6, idle)
    made.most("idle latency, p99", "aether.latency", "p99", "ms", 3)
    made.most("lateness of 1,000 in 10 s, p99", "aether.lateness", "p99", "ms", 3)
    made.grows("10³ → 10⁶ waiting: enqueue", "enqueue", "ms", times=1.25)
    made.grows("10³ → 10⁶ waiting: claim of 100", "claim", "ms", times=1.25)
    made.grows("10³ → 10⁶ waiting: latency", "latency", "ms", times=1.25)
    made.grows("10³ → 10⁶ waiting: memory", "rss", "MiB", more=20)
    made.most("start with 10⁶ waiting", f"aether.backlog.{BACKLOGS[-1]}", "start", "s", 1)
    made.most("recovery after kill -9, longest", "aether.recovery", "longest", "s", 0.5)
    made.most("idle process", "aether.idle", "cpu", "% CPU", 0.2)
    made.most("import aether_bg", "aether.import", "ms", "ms", 120, ("aether.import", "others", "what it imports"))
    made.most("kernel's own time per job", "aether.kernel", "us", "µs", 60)
    return made.lines
