"""One measurement of one system, in this process: `measure.py SYSTEM FIGURE SIZE FOLDER [URL]` prints JSON.

Run by `run.py` with the Python of the system's own environment. FOLDER is for the databases; steps of one run share it.
URL is of an empty database, for those that need a server.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from pathlib import Path


def main(system: str, figure: str, size: str, where: str, *url: str) -> None:
    measure = importlib.import_module(f"systems.{system}").FIGURES[figure]
    with tempfile.TemporaryDirectory(dir=where) as folder:
        print(json.dumps(measure(int(size), Path(folder), *url)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
