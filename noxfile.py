"""Everything that is checked: `nox` for the usual, `nox -s NAME` for the rest, `nox -l` lists them.

The usual runs the tests on the supported Pythons that are found here, then style and types.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import nox

HERE = Path(__file__).parent
PROJECT = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = [*nox.project.python_versions(PROJECT), "3.14"]  # announced by its classifier once it is tested everywhere
# what examples/ and tests use beyond the package
EXAMPLES = [
    "fastapi", "httpx", "httpx2", "flask", "uvicorn", "cryptography", "opentelemetry-sdk", "lmdb", "apscheduler<4",
    "sqlalchemy", "pydantic>=2", "msgspec",
]  # fmt: skip

STYLE = ["ruff", "import-linter"]
TYPES = ["mypy", ".[dapr,postgres,test]"]

# what may differ from one Python to the next
CORE = ["app", "handlers", "hooks", "kernel", "model", "plugins", "rules", "schedule", "upkeep"]

# the Python that nox runs on, and with it the sessions that name none
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"

# more than cores: most tests wait for processes and clocks
WORKERS = str(min(8, 4 * (os.cpu_count() or 1)))

nox.options.sessions = ["tests", "lint", "types"]
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True
nox.needs_version = ">=2024.4.15"


def found() -> list[str]:
    """The supported Pythons that run here; a version manager's shim may be on PATH without its Python."""

    def runs(version: str) -> bool:
        python = shutil.which(f"python{version}")
        return python is not None and _succeeds([python, "-c", ""])

    return [version for version in PYTHONS if runs(version)] or PYTHONS[:1]


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def lowest() -> list[str]:
    """The declared dependencies, each at its lower bound."""
    return [re.sub(r">=", "==", line) for line in PROJECT["project"]["dependencies"]]


def core() -> list[str]:
    """Without what needs a server, which has sessions of its own."""
    apart = [f"--ignore=tests/plugins/{name}" for name in ("dapr", "postgres")]
    return [f"tests/{room}" for room in CORE if (HERE / "tests" / room).is_dir()] + [*apart, "-m", "not dapr"]


def memory() -> str | None:
    """A folder in memory for the files of tests, where there is room. They wait less: nothing is synced to a disk."""
    folder = "/dev/shm"
    roomy = os.path.isdir(folder) and os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 4 * 2**30
    return folder if roomy else None


def run_pytest(session: nox.Session, *arguments: str, on_disk: bool = False) -> None:
    """Each session remembers its own failures; `-- --last-failed` runs just those again, and nothing if there were
    none. A session that has never reached its end runs whole."""
    session.env["PYTHONDONTWRITEBYTECODE"] = ""  # each of a thousand processes would compile the package again
    if not on_disk and (folder := memory()):
        session.env["TMPDIR"] = folder
    cache = f".nox/.pytest-{session.name.replace('(', '-').replace(')', '')}"
    again = "--last-failed" in arguments
    ended = HERE / cache / "v" / "aether_bg" / "ended"  # tests/conftest.py writes it
    if again and not (ended.exists() and ended.read_text(encoding="utf-8") == "true"):
        again, arguments = False, tuple(argument for argument in arguments if argument != "--last-failed")
    if again:
        arguments += ("--last-failed-no-failures=none",)
    codes = [0, 5] if again else [0]  # 5: no tests ran
    session.run(
        "pytest",
        "-q",
        "-o",
        f"cache_dir={cache}",
        *arguments,
        silent="--collect-only" in arguments,
        success_codes=codes,
    )


def run_in_workers(session: nox.Session, *arguments: str) -> None:
    compiled = f"conftest.cpython-{str(session.python or OWN).replace('.', '')}-pytest-*.pyc"
    if not any((HERE / "tests" / "__pycache__").glob(compiled)):  # else each worker compiles all tests, at once
        run_pytest(session, "--collect-only", "-qq", *arguments)
    run_pytest(session, "-n", WORKERS, "--dist", "worksteal", *arguments)


@nox.session(python=found())
def tests(session: nox.Session) -> None:
    """The whole suite, except chaos, on the newest Python found here; the core of it on the others.

    Tests of the real sidecar skip if there is none. `-- --thorough`: every case on both event loops, on the newest.
    `-- --after-quick`: without the Python on which `quick` has run the same core.
    """
    newest = session.python == found()[-1]
    if "--after-quick" in session.posargs and session.python == OWN and not newest:
        session.skip("`quick` has run the core on this Python")
    session.install("-q", ".[test,web]", *EXAMPLES)
    ours = {"--after-quick"} if newest else {"--after-quick", "--thorough"}
    arguments = [argument for argument in session.posargs if argument not in ours]
    if not newest and all(argument.startswith("-") for argument in arguments):
        arguments += core()
    run_in_workers(session, *arguments)


@nox.session
def quick(session: nox.Session) -> None:
    """The core of the suite on one Python, then style and types, in one environment: about two minutes."""
    session.install("-q", ".[test,web]", *EXAMPLES)
    run_in_workers(session, *core(), *session.posargs)
    session.install("-q", "--no-compile", *STYLE, *TYPES)
    check_style(session)
    check_types(session)


@nox.session(name="lowest", python=found()[:1])
def lowest_dependencies(session: nox.Session) -> None:
    """The core of the suite again, on the oldest dependencies allowed."""
    session.install("-q", ".[test,web]", *EXAMPLES)
    session.install("-q", *lowest())
    run_in_workers(session, *core(), *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and which package may import which."""
    session.install("-q", "--no-compile", *STYLE, ".")
    check_style(session)


def check_style(session: nox.Session) -> None:
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict on everything shipped."""
    session.install("-q", "--no-compile", *TYPES, *EXAMPLES)
    check_types(session)


def check_types(session: nox.Session) -> None:
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """README, hookspecs.md and the examples: they run, and agree with the code."""
    session.install("-q", ".[test,web]", *EXAMPLES)
    run_pytest(session, "tests/docs", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """The built wheel, alone in a fresh environment, runs the main job; a second build has the same bytes."""
    session.install("-q", "build")
    first, second = Path(session.create_tmp()) / "first", Path(session.create_tmp()) / "second"
    for out in (first, second):
        shutil.rmtree(out, ignore_errors=True)
        session.run("python", "-m", "build", "-q", "--outdir", str(out))  # the wheel is built from the sdist
    for path in first.iterdir():
        if path.read_bytes() != (second / path.name).read_bytes():
            session.error(f"{path.name} is not reproducible")
    with tarfile.open(next(first.glob("*.tar.gz"))) as sdist:
        packed = {name.partition("/")[2] for name in sdist.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=HERE, capture_output=True, text=True, check=False).stdout.split(
        "\n"
    )
    if missing := [name for name in tracked if name and not name.startswith(".") and name not in packed]:
        session.error(f"the sdist lacks {', '.join(missing[:5])}")
    session.install("-q", "--force-reinstall", str(next(first.glob("*.whl"))))
    quickstart = HERE / "examples" / "quickstart.py"
    with session.chdir(first):
        session.run("python", str(quickstart))
        session.run("aether-bg", "next", "30 2 * * *", "--timezone", "Europe/Berlin")


@nox.session
def upgrade(session: nox.Session) -> None:
    """The commit before this one and this one, on one live file; `-- REVISION` for an older one.

    Skips where the schema of a version that is not released yet has changed between the two.
    """
    revision = session.posargs[0] if session.posargs else "HEAD~1"
    if not _succeeds(["git", "-C", str(HERE), "rev-parse", "-q", "--verify", revision]):
        session.skip(f"{revision} is not in this clone: git fetch --unshallow")
    schema = [f"aether_bg/plugins/sqlite/{name}.py" for name in ("schema", "columns")]
    if not _succeeds(["git", "-C", str(HERE), "diff", "--quiet", revision, "HEAD", "--", *schema]):
        session.skip("the schema has changed since, and is not released")
    old = Path(session.create_tmp()) / "old"
    session.run("python", "-m", "venv", "--clear", str(old))
    session.run(str(old / "bin" / "pip"), "install", "-q", f"git+file://{HERE}@{revision}", external=True)
    session.install("-q", ".")
    session.run(
        "python", "tests/upgrading/two_versions.py", str(old / "bin" / "python"), str(Path(session.bin) / "python")
    )


@nox.session
def dapr(session: nox.Session) -> None:
    """The suite and the main scenarios on a real sidecar and scheduler; docs/how-to/testing.md says how to get them."""
    session.install("-q", ".[dapr,test,web]", *EXAMPLES, "httpx")
    suite = ["tests/plugins/dapr", "tests/app/test_scenarios.py", "tests/testing/test_pytest_plugin.py"]
    run_in_workers(session, *suite, *session.posargs)


@nox.session
def postgres(session: nox.Session) -> None:
    """The store's suite on a real PostgreSQL, through pgbouncer too where it is installed; CONTRIBUTING.md says how."""
    session.install("-q", ".[dapr,postgres,test,web]", *EXAMPLES, "asyncpg", "sqlalchemy[asyncio]", "pyyaml")
    suite = [
        "tests/plugins/postgres",
        "tests/testing/test_postgres.py",
        "tests/ext/web/test_screens.py",
        "tests/ext/web/test_actions.py",
    ]
    run_in_workers(session, *suite, *session.posargs)


@nox.session
def web(session: nox.Session) -> None:
    """The page in a real browser and in frameworks: needs Chromium, for example by `apt-get install chromium`."""
    browser = "playwright", "axe-playwright-python"
    session.install("-q", ".[postgres,test,web]", *EXAMPLES, *browser, "django", "fastapi", "litestar")
    tests = "tests/ext/web/test_browser.py", "tests/ext/web/test_mounts.py"
    run_pytest(session, "-n", "3", "--dist", "worksteal", *tests, *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """Kills real processes, row by row of the crash programme; `-- --small` with the counts of CI."""
    session.install("-q", ".[dapr,postgres,test]", "fastapi", "httpx", "httpx2", "flask")
    small = "--small" in session.posargs
    rest = [argument for argument in session.posargs if argument != "--small"]
    # rows mostly wait: three at a time, in order, since those that measure time come last and alone
    side_by_side = ["-n", "3", "--dist", "load", "--maxschedchunk", "1"] if small else []
    # a row at full count may take minutes
    size = f"--chaos={'small' if small else 'full'}"
    run_pytest(session, "--timeout=3600", "tests/chaos", size, *side_by_side, *rest, on_disk=True)


@nox.session
def soak(session: nox.Session) -> None:
    """Half an hour at a hundred jobs a second, with kills; AETHER_BG_CHAOS_SOAK sets other seconds."""
    session.install("-q", ".[test]")
    seconds = float(os.environ.get("AETHER_BG_CHAOS_SOAK", "1800"))
    row = "tests/chaos/test_load.py::test_soak"
    run_pytest(session, f"--timeout={seconds + 600:.0f}", row, "--chaos=full", on_disk=True)


@nox.session(python=next((version for version in found() if version >= "3.12"), found()[0]))  # tinyjobs needs 3.12
def bench(session: nox.Session) -> None:
    """Beside raw sqlite3 and the libraries a user would pick instead; a table, JSON and a plot. `-- --help`.
    `-- --postgres`: the same on a PostgreSQL server, beside raw psycopg."""
    session.install("-q", ".[postgres]" if "--postgres" in session.posargs else ".")
    session.run("python", "benchmarks/run.py", *session.posargs)
