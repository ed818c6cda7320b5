"""For the test processes, and by PYTHONPATH for those that tests start.

svcs imports every web framework that it finds, which costs most of a second of CPU; here it finds none. Programs can
still import them.
"""

import sys

for framework in ("aiohttp", "fastapi", "flask", "starlette"):
    sys.modules[f"svcs.{framework}"] = None  # type: ignore[assignment]
