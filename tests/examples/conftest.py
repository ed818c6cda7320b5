"""The plugins under examples/plugins are imported as a user would: from a folder on the path."""

from __future__ import annotations

import sys
from pathlib import Path

PLUGINS = Path(__file__).parents[2] / "examples" / "plugins"
sys.path.insert(0, str(PLUGINS))
