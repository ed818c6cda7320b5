"""Two plots in one SVG: rates side by side, and what a backlog costs."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path

from plan import BACKLOGS, Comparison
from report import NAMES
from targets import Best

WIDTH, HEIGHT, LEFT = 760, 300, 60
COLOURS = ("#2b6cb0", "#dd6b20", "#38a169", "#805ad5", "#718096")


def _text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _axis(top: float, low: int, high: int, unit: str) -> list[str]:
    """Powers of ten, from 10**low to 10**high."""
    parts = []
    for power in range(low, high + 1):
        y = _height(top, 10**power, low, high)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e2e8f0"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{10**power:,g}", "end"))
    return [*parts, _text(LEFT, top - 12, unit, "start")]


def _height(top: float, value: float, low: int, high: int) -> float:
    share = (math.log10(max(value, 10**low)) - low) / (high - low)
    return top + HEIGHT * (1 - share)


def throughput(found: Best, among: Comparison, top: float) -> list[str]:
    """Grouped bars, logarithmic."""
    figures = {"enqueue": "enqueue, one at a time", "enqueue_many": "enqueue, 64 at once", "drain": "drain"}
    systems = [name for name in (among.ours, *among.peers) if f"{name}.speed" in found]
    low, high = 2, 5
    parts = _axis(top, low, high, "per second")
    group = (WIDTH - LEFT) / len(figures)
    for g, (figure, words) in enumerate(figures.items()):
        for s, system in enumerate(systems):
            value = found[f"{system}.speed"][figure]
            wide = group * 0.8 / len(systems)
            x, y = LEFT + g * group + group * 0.1 + s * wide, _height(top, value, low, high)
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide - 4:.1f}" height="{top + HEIGHT - y:.1f}" '
                f'fill="{COLOURS[s]}"/>'
            )
            parts.append(_text(x + wide / 2 - 2, y - 4, f"{value:,.0f}"))
        parts.append(_text(LEFT + (g + 0.5) * group, top + HEIGHT + 18, words))
    return parts + _legend([NAMES[system] for system in systems], top)


def backlog(found: Best, top: float) -> list[str]:
    """Lines, doubly logarithmic: flat is what is wanted."""
    names = {"enqueue": "enqueue, ms", "claim": "claim of 100, ms", "latency": "idle latency, ms", "start": "start, s"}
    sizes = [size for size in BACKLOGS if f"aether.backlog.{size}" in found]
    low, high = -3, 2
    parts = _axis(top, low, high, "ms or s")
    across = [LEFT + 40 + n * (WIDTH - LEFT - 80) / max(len(sizes) - 1, 1) for n in range(len(sizes))]
    for colour, name in zip(COLOURS, names, strict=False):
        heights = [_height(top, found[f"aether.backlog.{size}"][name], low, high) for size in sizes]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, heights, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in zip(across, heights, strict=True)
        ]
    parts += [_text(x, top + HEIGHT + 18, f"{size:,} waiting") for x, size in zip(across, sizes, strict=True)]
    return parts + _legend(list(names.values()), top)


def _legend(names: list[str], top: float) -> list[str]:
    parts = []
    for n, name in enumerate(names):
        x = LEFT + 110 + n * 150
        parts.append(f'<rect x="{x}" y="{top - 22}" width="10" height="10" fill="{COLOURS[n]}"/>')
        parts.append(_text(x + 15, top - 12, name, "start"))
    return parts


def svg(found: Best, among: Comparison) -> str:
    parts: list[str] = []
    top = 40.0
    if any(f"{name}.speed" in found for name in (among.ours, *among.peers)):
        parts += throughput(found, among, top)
        top += HEIGHT + 80
    if f"aether.backlog.{BACKLOGS[0]}" in found:
        parts += backlog(found, top)
        top += HEIGHT + 80
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + 20}" height="{top:.0f}" '
    style = 'font-family="sans-serif" font-size="12" fill="#1a202c"><rect width="100%" height="100%" fill="white"/>'
    return "\n".join([head + style, *parts, "</svg>", ""])


def write(path: Path, found: Best, among: Comparison) -> None:
    path.write_text(svg(found, among), encoding="utf-8")
