"""Instructions per job by thread, counted by valgrind: a busy machine does not change them.

    python benchmarks/instructions.py [fill] [drain] [many] [one] [--tree PATH ...]

`--tree`: other checkouts to count beside each other. `fill`: units of work of 500 enqueues; `drain`: these jobs run;
`many`: 64 tasks enqueue; `one`: one enqueue after the other. Two runs of each, a short one and a long one: the
difference is what the jobs cost, without the start. Counts repeat to about 1 %. What waits for a clock counts more than
in a real run, which is fifty times as fast.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import budget

HERE = Path(__file__).resolve().parent
SIZES = {"fill": (1000, 3000), "drain": (1000, 3000), "many": (1000, 3000), "one": (300, 900)}
LOOP = 1
"""The number of the main thread, as valgrind counts them."""


async def run(part: str, jobs: int, path: Path) -> None:
    if part == "fill":
        await budget.fill(budget.noop_app(path), jobs)
    elif part == "drain":
        await budget.drain(path, jobs)
    elif part == "many":
        await budget.together(path, jobs)
    else:
        await budget.singly(path, jobs)


def counted(part: str, jobs: int, tree: Path) -> Counter[str]:
    """Instructions of the whole run: of the loop's thread, and of the others."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["valgrind", "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={folder}/out",
             sys.executable, __file__, "--run", part, str(jobs)],
            check=True, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(tree), "PYTHONHASHSEED": "0"},
        )  # fmt: skip
        found = Counter[str]()
        for out in Path(folder).iterdir():
            text = out.read_text(encoding="utf-8", errors="replace")
            thread, total = (
                re.search(r"^thread: (\d+)", text, re.M),
                re.search(r"^(?:summary|totals): (\d+)", text, re.M),
            )
            if thread and total:
                found["loop" if int(thread[1]) == LOOP else "writer"] += int(total[1])
        return found


def per_job(part: str, tree: Path) -> dict[str, float]:
    """Thousands. A drain is what its run costs beyond the enqueues before it."""
    few, many = SIZES[part]
    short, long = counted(part, few, tree), counted(part, many, tree)
    found = {name: (long[name] - short[name]) / (many - few) / 1000 for name in ("loop", "writer")}
    if part == "drain":
        before = per_job("fill", tree)
        found = {name: value - before[name] for name, value in found.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*SIZES, []], help="which; all if none is given")
    parser.add_argument("--tree", type=Path, nargs="+", default=[HERE.parent])
    parser.add_argument("--run", nargs=2, metavar=("PART", "JOBS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.run:
        with budget.folder() as path:
            asyncio.run(run(asked.run[0], int(asked.run[1]), path))
        return
    if shutil.which("valgrind") is None:
        parser.error("valgrind is not installed: apt-get install valgrind")
    print(f"{'thousand instructions per job':32}{'all':>8}{'loop':>8}{'writer':>8}")
    for part in asked.parts or SIZES:
        for tree in asked.tree:
            found = per_job(part, tree.resolve())
            print(
                f"{part:8}{tree.name[-22:]:24}{sum(found.values()):8.1f}{found['loop']:8.1f}{found['writer']:8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
