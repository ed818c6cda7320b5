"""A script without async: compress files in the background, four at a time, with retries; wait for the results.

    python examples/script_sync.py [file ...]     # without arguments: the examples themselves

The archives lie in ./script-sync-output. An archive that exists and is newer than its file is not made again.
"""

from __future__ import annotations

import gzip
import shutil
import sys
from pathlib import Path

import attrs

from aether_bg import Aether

OUTPUT = Path("script-sync-output")
app = Aether(OUTPUT / "jobs.db", concurrency=4)


@attrs.frozen
class Compress:
    source: Path
    target: Path


@app.handler("Compress", retries=2, timeout=60)
def compress(args: Compress) -> None:  # a plain function: it runs in a thread of its own
    half_done = args.target.with_suffix(".part")
    with args.source.open("rb") as source, gzip.open(half_done, "wb") as target:
        shutil.copyfileobj(source, target)
    half_done.replace(args.target)  # running twice does no harm: delivery is at least once


def main(files: list[Path]) -> None:
    with app.blocking() as jobs:
        waiting = {}
        for file in files:
            target = OUTPUT / f"{file.name}.gz"
            if not target.exists() or target.stat().st_mtime < file.stat().st_mtime:
                waiting[target] = jobs.enqueue(compress, payload=Compress(file, target))
        for target, job in waiting.items():
            ended = jobs.wait(job, timeout=120)
            error = (ended.last_error or "").splitlines()
            size = f"{target.stat().st_size:>8} bytes" if not error else error[0]
            print(f"{ended.status.name.lower():<10} {target.name:<28} {size}")
    print(f"{len(waiting)} of {len(files)} files compressed into {OUTPUT}{'' if waiting else ': all were there'}")


if __name__ == "__main__":
    OUTPUT.mkdir(exist_ok=True)
    main([Path(name) for name in sys.argv[1:]] or sorted(Path(__file__).parent.glob("*.py")))
