"""Fixtures of the core's tests: both event loops, a file, apps on it, and a clock that tests move."""

from __future__ import annotations

import os
import re
import runpy
import signal
import zlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

from aether_bg import Aether, hookimpl
from aether_bg._kernel.timings import Timings
from aether_bg.plugins.memory import MemoryStore
from aether_bg.protocols import Kernel
from aether_bg.testing import FakeClock

CHEAP = Path(__file__).parent / "subprocesses"  # what its module says holds for this process and for its children
runpy.run_path(str(CHEAP / "sitecustomize.py"))
if str(CHEAP) not in (paths := os.environ.get("PYTHONPATH", "").split(os.pathsep)):
    os.environ["PYTHONPATH"] = os.pathsep.join([str(CHEAP), *filter(None, paths)])

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # shells start background work so, and processes would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    said = "every case on both event loops and in files, and more random cases"
    parser.addoption("--thorough", action="store_true", help=said)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A case marked `one_loop` runs on one of the loops it has; which one depends on its name alone."""
    if config.getoption("--thorough", default=False):
        return
    cases = defaultdict[str, list[pytest.Item]](list)
    for item in items:
        if item.get_closest_marker("one_loop"):
            cases[re.sub(r"(?<=[-[])(asyncio|trio)(?=[-\]])", "", item.nodeid, count=1)].append(item)
    left_out = set[pytest.Item]()
    for name, case in cases.items():
        left_out.update(case)
        left_out.remove(case[zlib.crc32(name.encode(errors="replace")) % len(case)])
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def _note_whether_ended(config: pytest.Config, ended: bool) -> None:
    """For `--last-failed` in noxfile.py: a run that broke off knows not all of its failures."""
    cache = getattr(config, "cache", None)  # there is none without its plugin
    if cache is not None and not hasattr(config, "workerinput") and not config.option.collectonly:
        cache.set("aether_bg/ended", ended)


def pytest_sessionstart(session: pytest.Session) -> None:
    _note_whether_ended(session.config, ended=False)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    ended = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
    _note_whether_ended(session.config, ended=exitstatus in ended)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a jobs database may be made."""
    return tmp_path / "jobs.db"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def kept_in(request: pytest.FixtureRequest) -> Any:
    """Where the apps of a test keep their jobs: in memory if it is marked `any_store` and does not ask for `path`."""
    if "path" in request.fixturenames or request.config.getoption("--thorough"):
        return request.getfixturevalue("path")
    return MemoryStore() if request.node.get_closest_marker("any_store") else request.getfixturevalue("path")


@pytest.fixture
def make_app(kept_in: Any) -> Callable[..., Aether]:
    """`make_app(...)`: an app on `path` with the embedded timer and a short grace; arguments as for `Aether`.

    `timings`: the kernel's, where the defaults are too long for a test.
    """

    def make(store: Any = None, *, timings: Timings | None = None, **options: Any) -> Aether:
        options = {"scheduler": "timer", "grace": 2} | options
        app = Aether(kept_in if store is None else store, **options)
        if timings is not None:
            app.registration = attrs.evolve(app.registration, timings=timings)
        return app

    return make


@pytest.fixture
def app(make_app: Callable[..., Aether]) -> Aether:
    return make_app()


class Step:
    """A scheduler that does nothing by itself: `drain` runs what is due, or the test calls `fire_due`."""

    kernel: Kernel

    @hookimpl
    async def schedule_run(self, kernel: Kernel) -> None:
        self.kernel = kernel
        await anyio.sleep_forever()


@pytest.fixture
def step() -> Step:
    return Step()


@pytest.fixture
def fake_app(make_app: Callable[..., Aether], clock: FakeClock, step: Step) -> Aether:
    """An app that lives by `clock`: move it, then `await app.drain()`. Nothing runs in between."""
    return make_app(clock=clock, scheduler=step)
