"""A virtual environment for each rival, made when it is first needed and kept in `.envs/`."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
ENVS = HERE / ".envs"
OURS = ("raw", "aether", "raw_postgres", "aether_postgres")
"""Run by the Python that runs the benchmark."""


class Unavailable(Exception):
    """This system cannot be measured here, and why."""


def requirements(system: str) -> str:
    return (HERE / "requirements" / f"{system}.txt").read_text(encoding="utf-8")


def python(system: str) -> Path:
    """The interpreter of `system`'s environment. Raises `Unavailable`."""
    if system in OURS:
        return Path(sys.executable)
    wanted = requirements(system)
    base = _base(wanted)
    told = subprocess.run([base, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    name = f"{system}-{told}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"
    env = ENVS / name
    found = env / "bin" / "python" if sys.platform != "win32" else env / "Scripts" / "python.exe"
    if (env / "complete").exists():
        return found
    shutil.rmtree(env, ignore_errors=True)
    listed = HERE / "requirements" / f"{system}.txt"
    for command in ([base, "-m", "venv", str(env)], [str(found), "-m", "pip", "install", "-q", "-r", str(listed)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable((done.stderr or done.stdout).strip().splitlines()[-1])
    (env / "complete").touch()
    return found


def _base(wanted: str) -> str:
    """This Python, or where it is too old a newer one on PATH."""
    least = re.search(r"needs Python 3\.(\d+)", wanted)
    if least is None or sys.version_info >= (3, int(least[1])):
        return sys.executable
    for minor in range(int(least[1]), int(least[1]) + 4):
        found = shutil.which(f"python3.{minor}")
        if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
            return found
    raise Unavailable(f"it needs Python 3.{least[1]} or newer, and there is none on PATH")


def versions(system: str) -> dict[str, str]:
    """Python, SQLite and the libraries that `system` runs on."""
    code = "import sys, sqlite3; print(sys.version.split()[0], sqlite3.sqlite_version)"
    told = subprocess.run([python(system), "-c", code], capture_output=True, text=True, check=True).stdout.split()
    found = {"python": told[0], "sqlite": told[1]}
    if system.endswith("_postgres"):
        found["psycopg"] = metadata.version("psycopg")
    if system.startswith("aether"):
        return found | {"aether_bg": metadata.version("aether-bg")}
    if system in OURS:
        return found
    pins = (line.partition("==") for line in requirements(system).splitlines() if "==" in line)
    return found | {name: version for name, _, version in pins}
