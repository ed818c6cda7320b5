"""`pytest tests/chaos --chaos=small` (or AETHER_BG_CHAOS=small): the crash programme; without it nothing is collected.

`full` runs the full counts, `small` fewer, with the same assertions. Under `pytest -n`, rows run side by side, except
those marked `alone`: they come last, one at a time. At the end a table is printed; AETHER_BG_CHAOS_JSON names a file
to write it to as well.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos.harness import Nursery, World

SIZES = ("small", "full")
TURN = "AETHER_BG_CHAOS_TURN"
"""Names the file that rows of one run lock: shared, or alone."""
_notes = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos", choices=SIZES, default=None, help="run the crash programme: small or full counts")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(number, small, full): a row of the table, and how often it is shown")
    config.addinivalue_line("markers", "alone: measures time or memory, so no other row may run beside it")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table(config), "chaos-table")
        turn = tempfile.NamedTemporaryFile(prefix="aether_bg-chaos-")  # noqa: SIM115 - lives as long as the run
        config.add_cleanup(turn.close)
        os.environ[TURN] = turn.name


def size_of(config: pytest.Config) -> str | None:
    size = config.getoption("--chaos", None) or os.environ.get("AETHER_BG_CHAOS")
    if size is not None and size not in SIZES:
        raise pytest.UsageError(f"AETHER_BG_CHAOS={size}: must be one of {', '.join(SIZES)}")
    return size


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if Path(__file__).parent in collection_path.parents and size_of(config) is None:
        return True
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if size_of(config) is None:
        return  # none of them is of the crash programme
    long = size_of(config) == "full" and config.pluginmanager.hasplugin("timeout")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.chaos)
            if long:
                item.add_marker(pytest.mark.timeout(3600))
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside of the timeout: waiting for a turn does not count
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    name = os.environ.get(TURN)  # without one the rows are not what this run is for
    if name is None or not hasattr(item.config, "workerinput"):
        return (yield)
    with Path(name).open() as turn:
        fcntl.flock(turn, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        return (yield)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def count(request: pytest.FixtureRequest) -> int:
    """How often this row is shown, in this run."""
    mark = request.node.get_closest_marker("row")
    assert mark is not None, "this test has no row mark"
    return int(mark.kwargs[size_of(request.config) or "small"])


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    return size_of(request.config) == "full"


@pytest.fixture(params=(None, 0.5), ids=["fallback-off", "fallback-on"])
def fallback(request: pytest.FixtureRequest) -> float | None:
    """Seconds after which an app beside Dapr claims by itself: never, and so soon that it does while Dapr is slow."""
    found: float | None = request.param
    return found


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Put a figure into the table."""
    return request.node.stash.setdefault(_notes, []).append


@pytest.fixture
def worlds(tmp_path: Path, nursery: Nursery) -> Iterator[Callable[[str], World]]:
    """Makes worlds; ends their processes."""
    made: list[World] = []

    def make(name: str = "world") -> World:
        world = World(tmp_path / name, nursery)
        made.append(world)
        return world

    yield make
    for world in made:
        world.end_all()


@pytest.fixture
def world(worlds: Callable[[str], World]) -> World:
    return worlds("world").create()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    mark = item.get_closest_marker("row")
    if mark is not None and (report.when == "call" or (report.when == "setup" and not report.passed)):
        row = {
            "row": mark.args[0],
            "test": item.name,
            "count": mark.kwargs[size_of(item.config) or "small"],
            "result": report.outcome,
            "seconds": round(report.duration, 1),
            "notes": item.stash.get(_notes, []),
        }
        report.user_properties.append(("row", row))
    return report


class Table:
    """Collects the rows; under `pytest -n`, from the reports of all workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._rows: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            self._rows += [value for name, value in report.user_properties if name == "row"]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        rows = sorted(self._rows, key=lambda row: (row["row"], row["test"]))
        if not rows:
            return
        size = size_of(self._config)
        terminalreporter.section(f"crash programme, {size}")
        terminalreporter.write_line(f"{'row':>3}  {'count':>6}  {'result':<8}{'time':>8}  test")
        for row in rows:
            notes = f"  ({'; '.join(row['notes'])})" if row["notes"] else ""
            terminalreporter.write_line(
                f"{row['row']:>3}  {row['count']:>6}  {row['result']:<8}{row['seconds']:>6} s  {row['test']}{notes}"
            )
        if name := os.environ.get("AETHER_BG_CHAOS_JSON"):
            made = {"size": size, "at": time.time(), "rows": rows}
            Path(name).write_text(json.dumps(made, indent=1), encoding="utf-8")
