"""Every part of the kernel has a file of unit tests of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

import aether_bg

WITHOUT = {"_kernel": {"attempt", "identity", "shared", "timings"}}
"""Values that the parts share; `Attempt` is tested with the executor."""


@pytest.mark.parametrize("room", ["_kernel", "_upkeep"])
def test_every_part_has_a_file_of_tests(room: str) -> None:
    tests = {file.stem.removeprefix("test_") for file in (Path(__file__).parents[1] / room[1:]).glob("test_*.py")}
    files = (Path(aether_bg.__file__).parent / room).glob("*.py")
    parts = {file.stem for file in files if "\nclass " in file.read_text(encoding="utf-8")}
    assert parts - tests == WITHOUT.get(room, set())
