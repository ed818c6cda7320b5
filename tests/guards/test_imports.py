"""What `import aether_bg` brings along, pinned by name: every further library is paid for by every start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import aether_bg

ALLOWED = {"aether_bg", "anyio", "attr", "attrs", "idna", "pluggy", "sniffio", "typing_extensions"}
"""Top-level modules beyond the standard library. `idna`, `sniffio` and `typing_extensions` come with anyio, in some
of its versions."""
UNWANTED = (
    "concurrent.futures.process",
    "email",
    "http",
    "importlib.metadata",
    "multiprocessing",
    "sqlite3",
    "unittest",
)
"""Parts of the standard library that take time to import and that nothing needs before an app starts."""


def loaded(code: str) -> set[str]:
    """The modules of a fresh interpreter after `code`, less those that it has by itself."""
    script = f"import sys; before = set(sys.modules); {code}; print(*(set(sys.modules) - before))"
    root = Path(aether_bg.__file__).parent.parent
    return set(subprocess.check_output([sys.executable, "-c", script], text=True, cwd=root).split())


def foreign(modules: set[str]) -> set[str]:
    """Top-level names beyond the standard library (its parts that are not listed begin with an underscore)."""
    tops = {name.split(".")[0] for name in modules}
    return {name for name in tops - sys.stdlib_module_names if not name.startswith("_")}


def test_the_libraries_that_the_import_brings_along() -> None:
    found = foreign(loaded("import aether_bg"))
    assert found <= ALLOWED
    assert {"aether_bg", "anyio", "attr", "pluggy"} <= found


def test_the_app_comes_when_it_is_named() -> None:
    """A module that only catches an error, or asks for the version, does not pay for it."""
    ours = {name for name in loaded("import aether_bg") if name.startswith("aether_bg")}
    assert {name.split(".")[1] for name in ours if "." in name} == {"errors"}
    named = loaded("import aether_bg; aether_bg.JobStatus; assert {'Aether', 'hookimpl'} <= set(vars(aether_bg))")
    assert "aether_bg._app.aether" in named
    assert "aether_bg.plugins.sqlite" not in named


@pytest.mark.parametrize("name", ["bridge", "explain", "hookspecs", "model", "protocols", "schedule"])
def test_a_public_module_is_there_once_the_package_is_imported(name: str) -> None:
    loaded(f"import aether_bg; assert aether_bg.{name}.__name__ == 'aether_bg.{name}'")


def test_what_is_not_there_is_said_so() -> None:
    loaded("import aether_bg; assert not hasattr(aether_bg, 'Nothing'); assert 'Aether' in dir(aether_bg)")


def test_the_parts_of_the_standard_library_that_can_wait() -> None:
    found = loaded("import aether_bg")
    assert {name for name in UNWANTED if name in found} == set()


def test_an_app_with_a_file_and_the_timer_brings_only_its_layers() -> None:
    """Built, not started: no command line, no cron, no Dapr, no web framework."""
    found = foreign(loaded("import aether_bg; aether_bg.Aether('jobs.db', scheduler='timer')"))
    unwanted = {"click", "croniter", "dapr", "fastapi", "flask", "grpc", "numpy", "pandas", "sqlite_utils", "starlette"}
    assert found & unwanted == set()
