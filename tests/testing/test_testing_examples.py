"""examples/testing_jobs runs as its docstrings say, and leaves no database behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "testing_jobs"
WITHOUT = ("-p", "no:xdist", "-p", "no:xdist.looponfail", "-p", "no:hypothesispytest")  # the examples do not need them


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "pytest", "-q", *WITHOUT, "test_async.py", "test_sync.py"], "5 passed"),
        (["without_pytest.py"], "Ran 2 tests"),
    ],
)
def test_it_runs(tmp_path: Path, arguments: list[str], said: str) -> None:
    folder = shutil.copytree(EXAMPLES, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__"))
    files = sorted(path.name for path in folder.iterdir())
    command = [sys.executable, "-B", "-W", "error", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout + done.stderr
    assert [path.name for path in sorted(folder.glob("*.*")) if path.is_file()] == files


def test_every_example_is_named_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "newsletter.py", "test_async.py", "test_sync.py", "without_pytest.py",
    }  # fmt: skip
