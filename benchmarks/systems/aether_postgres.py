"""aether_bg on PostgreSQL, at its defaults: what is measured of it on a file, with a URL."""

from __future__ import annotations

from systems import aether
from systems.timing import Measurement

FIGURES: dict[str, Measurement] = {
    name: aether.FIGURES[name] for name in ("speed", "latency", "lateness", "idle", "recovery")
}
