"""What `import aether_bg` brings along, pinned by name: every further library is paid for by every start."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import aether_bg
from aether_bg import Aether

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
HEAVY = {"cattrs", "click", "croniter", "dapr", "fastapi", "grpc", "pandas", "sqlite_utils", "svcs", "trio"}
"""Libraries that an app imports when it needs them."""
IMPORTED = "import aether_bg; assert not hasattr(aether_bg, 'Nothing'); assert 'Aether' in dir(aether_bg)"
"""Neither question brings anything along."""
PUBLIC_MODULES = """
import os, aether_bg
for name in ("bridge", "explain", "hookspecs", "model", "protocols", "schedule"):
    if not (child := os.fork()):
        os._exit(getattr(aether_bg, name).__name__ != f"aether_bg.{name}")
    assert os.waitpid(child, 0)[1] == 0, name
"""


@cache
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
    found = foreign(loaded(IMPORTED))
    assert found <= ALLOWED
    assert {"aether_bg", "anyio", "attr", "pluggy"} <= found


def test_the_app_comes_when_it_is_named() -> None:
    """A module that only catches an error, or asks for the version, does not pay for it."""
    ours = {name for name in loaded(IMPORTED) if name.startswith("aether_bg")}
    assert {name.split(".")[1] for name in ours if "." in name} == {"errors"}
    named = loaded("import aether_bg; aether_bg.JobStatus; assert {'Aether', 'hookimpl'} <= set(vars(aether_bg))")
    assert "aether_bg._app.aether" in named
    assert foreign(named) & HEAVY == set()
    assert [name for name in named if name.startswith(("aether_bg.plugins", "aether_bg.testing"))] == []


def test_a_public_module_is_there_once_the_package_is_imported() -> None:
    """Each is asked for in a process that has none of them."""
    subprocess.run([sys.executable, "-c", PUBLIC_MODULES], check=True, timeout=60)


def test_the_parts_of_the_standard_library_that_can_wait() -> None:
    found = loaded(IMPORTED)
    assert {name for name in UNWANTED if name in found} == set()


RARE = (
    "aether_bg._handlers.converting",
    "aether_bg.cli",
    "aether_bg.explain._story",
    "aether_bg.plugins.dapr",
    "aether_bg.plugins.sqlite.backup",
    "aether_bg.plugins.sqlite.check",
    "aether_bg.plugins.sqlite.inspection",
    "aether_bg.schedule._lengths",
    "aether_bg.schedule._recurring",
    "cattrs",
    "click",
    "croniter",
    "dapr",
    "difflib",
    "fastapi",
    "flask",
    "grpc",
    "numpy",
    "pandas",
    "sqlite_utils",
    "starlette",
    "tempfile",
    "zoneinfo",
)
"""What an app with a file, the timer and one-shots never needs: no command line, no cron, no zones, no typed payloads,
no migration, no looking from outside, no Dapr, no web framework."""
LIFE = """
import sys
from aether_bg import Aether
app = Aether(sys.argv[1], scheduler="timer")
@app.handler("Noop")
def noop(): pass
with app.blocking(client=True) as jobs:
    jobs.enqueue("Noop")
assert "filelock" not in sys.modules, "a client is no owner"
with app.blocking() as jobs:
    jobs.drain()
    assert len(jobs.store.find()) == 1
print(*sys.modules)
"""


def test_an_app_with_a_file_and_the_timer_brings_only_its_layers(tmp_path: Path) -> None:
    """It runs a job in a file that is there, and stops."""
    with Aether(tmp_path / "jobs.db", scheduler="timer").blocking(client=True):
        pass
    root = Path(aether_bg.__file__).parent.parent
    command = [sys.executable, "-c", LIFE, str(tmp_path / "jobs.db")]
    found = set(subprocess.check_output(command, text=True, cwd=root).split())
    assert {"aether_bg.plugins.sqlite", "aether_bg.plugins.timer", "filelock"} <= found
    assert found & set(RARE) == set()


LISTING = """
import sys
from aether_bg.cli.app import cli
assert "aether_bg.plugins.sqlite" not in sys.modules, "for --help and next"
cli(["list", sys.argv[1], "--json"], standalone_mode=False)
print(*(name for name in sys.modules if name.startswith("aether_bg.")))
"""


def test_a_command_that_only_reads_brings_no_kernel(tmp_path: Path) -> None:
    with Aether(tmp_path / "jobs.db", scheduler="timer").blocking(client=True):
        pass
    said = subprocess.check_output([sys.executable, "-c", LISTING, str(tmp_path / "jobs.db")], text=True)
    rooms = {name.split(".")[1] for name in said.splitlines()[-1].split()}
    assert {"cli", "model", "plugins"} <= rooms
    assert rooms & {"_app", "_handlers", "_kernel", "_upkeep"} == set()
