"""In-process dispatch, and the example with a pool of processes, through the door that others use."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "plugins"))

from process_pool import ProcessPool  # type: ignore[import-not-found]

from aether_bg.plugins.inprocess import InProcess
from aether_bg.testing.contracts import runner_contract

globals().update(runner_contract(InProcess, name="inprocess"))
globals().update(runner_contract(lambda: ProcessPool(workers=1), name="pool"))
