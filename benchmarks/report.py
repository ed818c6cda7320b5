"""What is printed, and the JSON that is kept."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
from plan import Comparison
from targets import Best, Line

NAMES = {
    "aether": "aether_bg", "huey": "Huey", "tinyjobs": "tinyjobs", "apscheduler": "APScheduler",
    "aether_postgres": "aether_bg", "pgqueuer": "PgQueuer", "oban": "oban", "procrastinate": "Procrastinate",
}  # fmt: skip
DURABILITY = "WAL and synchronous=FULL everywhere, but for tinyjobs (NORMAL, its only setting)"
Versions = dict[str, dict[str, str]]

RAW = (
    ("raw, one a commit", "speed", "enqueue", "drain", None),
    ("  our kind of rows", "speed_alike", "enqueue", "drain", "latency"),
    ("raw, 100 a commit", "speed", "enqueue_many", "drain_many", None),
    ("  our kind of rows", "speed_alike", "enqueue_many", "drain_many", None),
)
"""What to call it, the step, its figures for enqueue and drain, the step of its latency."""


def head(versions: Versions, among: Comparison, quick: bool, server: str | None) -> str:
    """What the figures are figures of. `server`: its version."""
    ours = versions.get(among.ours) or versions.get(among.raw) or {}
    told = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    told += f", Python {ours['python']}" if ours else ""
    told += f", PostgreSQL {server}" if server else f", SQLite {ours['sqlite']}" if ours else ""
    durable = DURABILITY if server is None else "fsync and synchronous_commit on, over loopback"
    return f"{told}; {durable}{'; quick run' if quick else ''}"


def table(lines: list[Line]) -> str:
    """Aligned columns."""
    rows = [("", "aether_bg", "", "target", "")]
    rows += [(line.what, line.value, line.against, line.target, _verdict(line.met)) for line in lines]
    widths = [max(len(row[n]) for row in rows) for n in range(5)]
    cells = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join("  ".join(row).rstrip() for row in cells)


def _verdict(met: bool | None) -> str:
    return "" if met is None else "met" if met else "MISSED"


def systems(found: Best, versions: Versions, among: Comparison) -> str:
    """All of them side by side."""
    lines = [f"{'':24}{'enqueue/s':>10}{'64 at once':>12}{'drain/s':>10}   idle latency p50 / p99"]
    for name, step, enqueue, drain, latency in RAW:
        if speed := found.get(f"{among.raw}.{step}"):
            waits = found.get(f"{among.raw}.{latency}") if latency else None
            lines.append(f"{name:24}{speed[enqueue]:>10,.0f}{'':12}{speed[drain]:>10,.0f}   {_spread(waits)}".rstrip())
    for system in (among.ours, *among.peers):
        speed, waits = found.get(f"{system}.speed"), found.get(f"{system}.latency")
        if not speed and not waits:
            continue
        version = versions[system].get(NAMES[system].lower(), "")
        rates = [f"{speed[name]:,.0f}" if speed else "" for name in ("enqueue", "enqueue_many", "drain")]
        lines.append(
            f"{NAMES[system]} {version}".ljust(24)
            + f"{rates[0]:>10}{rates[1]:>12}{rates[2]:>10}   {_spread(waits)}".rstrip()
        )
    return "\n".join(lines) if len(lines) > 1 else ""


def _spread(waits: dict[str, float] | None) -> str:
    return f"{waits['p50']:.1f} / {waits['p99']:.1f} ms" if waits else ""


def write(
    path: Path, *, what: str, rounds: Any, best: Best, lines: list[Line], versions: Versions, missing: Any
) -> None:
    content = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"), "what": what, "versions": versions,
        "table": [attrs.asdict(line) for line in lines], "best": best, "rounds": rounds, "missing": missing,
    }  # fmt: skip
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
