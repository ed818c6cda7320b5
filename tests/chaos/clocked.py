"""Processes whose wall clock or zone data is another one: `python -m chaos.clocked ROLE …`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from aether_bg import Aether, JobContext
from aether_bg.testing import FakeClock

TESTS = Path(__file__).resolve().parent.parent
ZONE = "America/Mexico_City"
LIBRARIES = [
    *(f"/usr/lib/{kind}/faketime/libfaketimeMT.so.1" for kind in ("x86_64-linux-gnu", "aarch64-linux-gnu")),
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
]


def missing(what: str, variable: str, remedy: str) -> None:
    """Skip, or fail where the environment says that it must be there."""
    said = f"{what} is not there: {remedy}"
    if os.environ.get(variable):
        pytest.fail(said)
    pytest.skip(said)


def faketime() -> str:
    found = [path for path in LIBRARIES if Path(path).exists()]
    if not found:
        missing("libfaketime", "AETHER_REQUIRE_FAKETIME", "apt-get install libfaketime")
    return found[0]


def zone_data(release: str, folder: Path) -> Path:
    """The zone files of a release of tzdata."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), f"tzdata=={release}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob(f"tzdata-{release}-*.whl"))
    if done.returncode or not wheels:
        missing(f"tzdata {release}", "AETHER_REQUIRE_TZDATA", f"pip download tzdata=={release}: {done.stderr[-200:]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(folder / release)
    return folder / release / "tzdata/zoneinfo"


def python(*arguments: str, **env: str) -> list[Any]:
    """`subprocess.Popen`'s arguments."""
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return [[sys.executable, "-m", "chaos.clocked", *arguments], os.environ | {"PYTHONPATH": path} | env]


class Clocked:
    """A process by a wall clock of its own, which is set by a file; `seconds` beside the real one."""

    def __init__(self, folder: Path) -> None:
        self._library, self._offset = faketime(), folder / "offset"
        self._database, self._log = folder / "jobs.db", folder / "starts"
        self._offset.write_text("+0")
        self.process: subprocess.Popen[bytes]
        self.shift = timedelta(0)

    def show(self, wall: datetime) -> None:
        self.shift = wall - datetime.now(UTC)
        fresh = self._offset.with_suffix(".new")
        fresh.write_text(f"{self.shift.total_seconds():+.3f}")
        fresh.replace(self._offset)

    @property
    def wall(self) -> datetime:
        return datetime.now(UTC) + self.shift

    def start(self) -> None:
        command, env = python(
            "serve", str(self._database), str(self._log), LD_PRELOAD=self._library,
            FAKETIME_TIMESTAMP_FILE=str(self._offset), FAKETIME_NO_CACHE="1", FAKETIME_DONT_FAKE_MONOTONIC="1",
            DONT_FAKE_MONOTONIC="1",
        )  # fmt: skip
        self.process = subprocess.Popen(command, env=env)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def starts(self, name: str = "") -> list[dict[str, str]]:
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [one for one in map(json.loads, lines) if one["name"].startswith(name)]


def serve(database: str, log: str) -> None:
    """A recurring job of every kind."""
    app = Aether(database, scheduler="timer", grace=1)

    async def note(ctx: JobContext) -> None:
        with Path(log).open("a") as file:
            file.write(json.dumps({"name": ctx.job.job_name, "occurrence": ctx.occurrence.isoformat()}) + "\n")

    app.handler("cron", schedule="* * * * * *")(note)
    app.handler("every", schedule="@every 1s")(note)
    app.handler("fixed", schedule="30 12 * * *")(note)
    app.handler("later")(note)
    app.declare("later", "later", schedule=datetime(2035, 1, 1, tzinfo=UTC))
    app.run()


def zoned(database: str, start: str, days: str) -> None:
    """Live through the days, an hour at a time; print what ran."""
    clock, ran = FakeClock(datetime.fromisoformat(start)), list[tuple[str, str]]()
    app = Aether(database, scheduler="timer", clock=clock, grace=1)

    @app.handler("nine", schedule=f"CRON_TZ={ZONE} 0 9 * * *")
    async def nine(ctx: JobContext) -> None:
        ran.append((ctx.occurrence.isoformat(), clock.now().isoformat()))

    async def main() -> None:
        async with app:
            await anyio.sleep(0.3)
            for _ in range(int(days) * 24):
                clock.advance(hours=1)
                await app.drain()

    anyio.run(main)
    sys.stdout.write(json.dumps(ran))


if __name__ == "__main__":
    {"serve": serve, "zoned": zoned}[sys.argv[1]](*sys.argv[2:])
