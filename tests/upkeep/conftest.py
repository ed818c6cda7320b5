"""The parts beside the kernel, each built alone: on the kernel's own fixtures."""

from kernel.conftest import make_world, running

__all__ = ["make_world", "running"]
