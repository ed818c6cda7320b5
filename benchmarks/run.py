"""aether_bg beside raw sqlite3 and the libraries a user would pick instead, in one run: `nox -s bench`. With
`-- --postgres` the same on a PostgreSQL server of its own, beside raw psycopg and the libraries for that.

Every measurement is a process of its own, in its system's own environment; who is compared is measured in turn, several
rounds over, and of each figure the round least disturbed counts. Prints a table; writes JSON and an SVG to `results/`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import environments
import plot
import report
import targets
from plan import ON_A_FILE, ON_A_SERVER, Step, rounds

HERE = Path(__file__).parent
LONGEST = 240
"""Seconds for one measurement; a system that hangs is left out, and said so."""
ENOUGH = (600, 100)
"""Seconds after which nothing is measured again, in the default run and in the quick one: a busy machine gets fewer
rounds."""


class Run:
    def __init__(self, quick: bool, folder: str, server: Any) -> None:
        """`server`: a `PostgresCluster`, or None."""
        self._quick, self._folder, self._server = quick, folder, server
        self.found: defaultdict[str, list[dict[str, float]]] = defaultdict(list)
        self.missing: dict[str, str] = {}

    def prepare(self, steps: list[Step]) -> dict[str, dict[str, str]]:
        """Environments first, so that none is made while something is measured. Versions, by system."""
        versions = {}
        for system in dict.fromkeys(step.system for step in steps):
            self._progress(f"environment of {system}")
            try:
                versions[system] = environments.versions(system)
            except environments.Unavailable as why:
                self.missing[system] = str(why)
        return versions

    def go(self, steps: list[Step]) -> None:
        todo = [step for step in rounds(steps, self._quick) if step.system not in self.missing]
        began = time.monotonic()
        for number, step in enumerate(todo, 1):
            self._progress(f"{number}/{len(todo)}  {time.monotonic() - began:4.0f} s  {step.key}")
            late = time.monotonic() - began > ENOUGH[self._quick]
            if step.key in self.missing or (late and self.found[step.key]):
                continue
            try:
                self.found[step.key].append(self._measure(step))
            except KeyboardInterrupt:  # what has been measured by then is reported
                break
            except (subprocess.SubprocessError, ValueError, IndexError) as error:
                told = getattr(error, "stderr", None) or str(error)
                self.missing[step.key] = str(told).strip().splitlines()[-1]
        self._progress("")

    def _measure(self, step: Step) -> dict[str, float]:
        command = [str(environments.python(step.system)), "measure.py", step.system, step.figure]
        command += [str(step.sized(self._quick)), self._folder]
        with nullcontext() if self._server is None else self._server.database() as url:
            command += [] if url is None else [url]
            done = subprocess.run(command, cwd=HERE, check=True, capture_output=True, text=True, timeout=LONGEST)
        figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return figures

    def _progress(self, words: str) -> None:
        """One line that changes, on a terminal; else a line each."""
        if sys.stderr.isatty():
            print(f"\r\x1b[K{words}", end="", file=sys.stderr, flush=True)
        elif words:
            print(words, file=sys.stderr, flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: two minutes, rougher figures")
    parser.add_argument("--postgres", action="store_true", help="on a PostgreSQL server, which it starts itself")
    steps = (*ON_A_FILE.steps, *ON_A_SERVER.steps)
    only = f"measurements whose name has one of these words: {', '.join(step.key for step in steps)}"
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help=only)
    parser.add_argument("--folder", help="where the databases are made; the system's folder for temporary files")
    parser.add_argument("--layers", action="store_true", help="instead: CPU time per job, by thread, beside a floor")
    return parser.parse_args()


def main() -> int:
    asked = parsed()
    if asked.layers:
        return subprocess.run([sys.executable, str(HERE / "budget.py")], check=False).returncode
    among, name = (ON_A_SERVER, "postgres") if asked.postgres else (ON_A_FILE, "latest")
    steps = among.chosen(asked.only)
    if not steps:
        print(f"--only {' '.join(asked.only)}: no measurement has that name; see --help", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=asked.folder))
        server = stack.enter_context(started()) if asked.postgres else None
        run = Run(asked.quick, folder, server)
        versions = run.prepare(steps)
        run.go(steps)
        version = None if server is None else server.server.execute("SHOW server_version")[0][0]
    found = targets.best(run.found)
    lines, what = targets.table(found, among), report.head(versions, among, asked.quick, version)
    print(what)
    print(*filter(None, (report.systems(found, versions, among), report.table(lines))), sep="\n\n")
    for step, why in run.missing.items():
        print(f"not measured: {step}: {why}")
    report.write(
        HERE / "results" / f"{name}.json", what=what, rounds=run.found, best=found, lines=lines, versions=versions,
        missing=run.missing,
    )  # fmt: skip
    plot.write(HERE / "results" / f"{name}.svg", found, among)
    print(f"\nwritten to benchmarks/results: {name}.json, {name}.svg")
    return 0


def started() -> Any:
    """A server as it comes, on which each commit waits for the disk."""
    from aether_bg.testing.postgres import PostgresCluster

    return PostgresCluster(settings={"fsync": "on", "shared_buffers": "128MB", "autovacuum_naptime": "60s"})


if __name__ == "__main__":
    sys.exit(main())
