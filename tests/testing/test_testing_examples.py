"""examples/testing_jobs runs as its docstrings say, and leaves no database behind."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from runpy import run_path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "testing_jobs"
pytest_plugins = "pytester"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the examples, to which nothing is added."""
    copy = shutil.copytree(EXAMPLES, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__"))
    files = sorted(path.name for path in copy.iterdir())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield copy
    assert [path.name for path in sorted(copy.glob("*.*")) if path.is_file()] == files


def test_with_pytest(pytester: pytest.Pytester, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = pytester.runpytest_inprocess("-W", "error", "-p", "no:cacheprovider", "test_async.py", "test_sync.py")
    done.assert_outcomes(passed=5)


def test_without_pytest(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As a program, in this process: `test_unittest_alone` proves that pytest is not needed."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "argv", ["without_pytest.py"])
    with pytest.raises(SystemExit) as end:
        run_path("without_pytest.py", run_name="__main__")
    sys.modules.pop("newsletter")
    assert end.value.code == 0
    assert "Ran 2 tests" in capsys.readouterr().err


def test_every_example_is_named_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "newsletter.py", "test_async.py", "test_sync.py", "without_pytest.py",
    }  # fmt: skip
