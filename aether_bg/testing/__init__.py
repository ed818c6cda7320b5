"""For tests of apps and plugins. `sidecar` starts a real Dapr for them and is imported by its own name."""

from aether_bg.testing.clock import FakeClock

__all__ = ["FakeClock"]
