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


def project(pytester: pytest.Pytester, tests: str) -> pytest.RunResult:
    pytester.makeini(STRICT)
    pytester.makepyfile(their_app=APP, test_it=tests)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-rs")


def test_the_fixtures_are_there_without_an_import(pytester: pytest.Pytester) -> None:
    done = project(
        pytester,
        """
        import pytest
        from their_app import app

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_async(aether_sandbox, aether_clock):
            async with aether_sandbox(app) as jobs:
                assert jobs.clock is aether_clock
                aether_clock.advance(days=1)
                assert len(await jobs.drain()) == 1

        def test_sync(aether_sandbox):
            with aether_sandbox(app).blocking() as jobs:
                jobs.assert_enqueued("Hello")
                assert len(jobs.advance(days=2)) == 2

        def test_that_fails(aether_sandbox):
            with aether_sandbox(app).blocking() as jobs:
                jobs.assert_not_enqueued("Hello")
        """,
    )
    done.assert_outcomes(passed=2, failed=1)
    done.stdout.fnmatch_lines(["*AssertionError: 1 jobs, not 0, are enqueued for Hello. There is:", "*Hello 'Hello'*"])


def test_a_suite_that_does_not_use_it_is_as_it_was(pytester: pytest.Pytester) -> None:
    done = project(
        pytester,
        f"""
        import sys

        def test_nothing_heavy_is_loaded(request):
            assert request.config.pluginmanager.hasplugin("aether_bg")
            assert [name for name in {HEAVY} if name in sys.modules] == []
            assert [name for name in sys.modules if name.startswith("aether_bg.plugins.")] == []
            assert not [name for name in sys.modules if name.startswith("aether_bg.testing.") if "pytest" not in name]

        def test_no_fixture_is_used_by_itself(request):
            assert not [name for name in request.fixturenames if "aether" in name]
        """,
    )
    done.assert_outcomes(passed=2)


@pytest.mark.parametrize(("required", "outcome"), [("", {"skipped": 2}), ("1", {"errors": 2})])
def test_without_dapr(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, required: str, outcome: dict[str, int]
) -> None:
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.setenv("HOME", str(pytester.path))
    monkeypatch.setenv("AETHER_REQUIRE_DAPR", required)
    done = project(pytester, "def test_one(aether_sidecar): ...\ndef test_two(aether_sidecar): ...")
    done.assert_outcomes(**outcome)
    assert "dapr init --slim" in done.stdout.str()


@pytest.mark.dapr
def test_with_dapr(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("grpc", reason="needs pip install 'aether-bg[dapr]'")
    monkeypatch.setenv("HOME", str(HOME))
    require_dapr()
    done = project(
        pytester,
        """
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
    done.assert_outcomes(passed=2)
