"""The fixtures, in a project of somebody else's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aether_bg.testing.sidecar import require_dapr

pytest_plugins = "pytester"

HOME = Path.home()  # pytester has one of its own
APP = """
from aether_bg import Aether

app = Aether("production/jobs.db", scheduler="timer")

@app.handler("Hello", schedule="@daily")
def hello() -> None: ...
"""
STRICT = "[pytest]\naddopts = --strict-markers --strict-config\nfilterwarnings = error\n"
HEAVY = ("sqlite3", "sqlite_utils", "svcs", "cattrs", "croniter", "grpc", "dapr")


WITHOUT = [
    option
    for name in ("cacheprovider", "xdist", "xdist.looponfail", "hypothesispytest")
    for option in ("-p", f"no:{name}")
]
"""Plugins of ours that their project does not have."""


def project(pytester: pytest.Pytester, **files: str) -> list[str]:
    """Makes it; returns the options of pytest for it."""
    pytester.makeini(STRICT)
    pytester.makepyfile(their_app=APP, **files)
    return [*WITHOUT, "-rs"]


def test_the_fixtures_are_there_without_an_import(pytester: pytest.Pytester) -> None:
    """And where no test uses them, nothing heavy is loaded."""
    options = project(
        pytester,
        test_1_without=f"""
        import sys

        def test_nothing_heavy_is_loaded(request):
            assert request.config.pluginmanager.hasplugin("aether_bg")
            assert [name for name in {HEAVY} if name in sys.modules] == []
            assert [name for name in sys.modules if name.startswith("aether_bg.plugins.")] == []
            assert not [name for name in sys.modules if name.startswith("aether_bg.testing.") if "pytest" not in name]

        def test_no_fixture_is_used_by_itself(request):
            assert not [name for name in request.fixturenames if "aether" in name]
        """,
        test_2_with="""
        import pytest

        @pytest.fixture
        def app():
            from their_app import app
            return app

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_async(app, aether_sandbox, aether_clock):
            async with aether_sandbox(app) as jobs:
                assert jobs.clock is aether_clock
                aether_clock.advance(days=1)
                assert len(await jobs.drain()) == 1

        def test_sync(app, aether_sandbox):
            with aether_sandbox(app).blocking() as jobs:
                jobs.assert_enqueued("Hello")
                assert len(jobs.advance(days=2)) == 2

        def test_that_fails(app, aether_sandbox):
            with aether_sandbox(app).blocking() as jobs:
                jobs.assert_not_enqueued("Hello")
        """,
    )
    done = pytester.runpytest_subprocess(*options)
    done.assert_outcomes(passed=4, failed=1)
    done.stdout.fnmatch_lines(["*AssertionError: 1 jobs, not 0, are enqueued for Hello. There is:", "*Hello 'Hello'*"])


@pytest.mark.parametrize(("required", "outcome"), [("", {"skipped": 2}), ("1", {"errors": 2})])
def test_without_dapr(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, required: str, outcome: dict[str, int]
) -> None:
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.setenv("HOME", str(pytester.path))
    monkeypatch.setenv("AETHER_REQUIRE_DAPR", required)
    options = project(pytester, test_it="def test_one(aether_sidecar): ...\ndef test_two(aether_sidecar): ...")
    done = pytester.runpytest_inprocess(*options)
    done.assert_outcomes(**outcome)
    assert "dapr init --slim" in done.stdout.str()


@pytest.mark.dapr
def test_with_dapr(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("grpc", reason="needs pip install 'aether-bg[dapr]'")
    monkeypatch.setenv("HOME", str(HOME))
    require_dapr()
    options = project(
        pytester,
        test_it="""
        import pytest
        from aether_bg import Aether

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        @pytest.mark.parametrize("number", [1, 2])
        async def test_a_job_comes_by_dapr(aether_sidecar, monkeypatch, tmp_path, number):
            for name, value in aether_sidecar.env.items():
                monkeypatch.setenv(name, value)
            app = Aether(tmp_path / "jobs.db")
            app.handler("Hello")(lambda: None)
            async with app:
                assert (await app.health())["scheduler"].endswith("DaprScheduler")
                assert (await app.wait(await app.enqueue("Hello"), timeout=30)).status.name == "COMPLETED"
        """,
    )
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=2)
