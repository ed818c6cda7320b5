"""A program whose file another module imports again: the errors say so, and what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """\
import attrs, asyncio
from aether_bg import Aether

app = Aether(":memory:", scheduler="timer")

@attrs.define
class Mail:
    to: str

@app.handler("Send")
async def send(args: Mail) -> None: ...

@app.handler("Class")
class Class:
    def handle(self, args: Mail) -> None: ...

async def main():
    import helper
    async with app:
        await helper.help(app)

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("app.enqueue(worker.send, payload=worker.Mail('a'))", ["UnknownHandler", "loaded twice", "'Send'"]),
        ("app.enqueue(worker.Class, payload={'to': 'a'})", ["UnknownHandler", "'worker'", "loaded twice", "'Class'"]),
        ("app.enqueue('Send', payload=worker.Mail('a'))", ["InvalidPayload", "__main__.Mail", "worker.Mail"]),
        ("worker.app.enqueue('Send', payload={'to': 'a'})", ["NotStarted", "loaded twice", "module of their own"]),
    ],
)  # fmt: skip
def test_what_the_error_says(tmp_path: Path, call: str, said: list[str]) -> None:
    (tmp_path / "worker.py").write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "helper.py").write_text(f"import worker\nasync def help(app):\n    await {call}\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "worker.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    for part in said:
        assert part in done.stderr.splitlines()[-1]
