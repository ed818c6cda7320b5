"""A program whose file another module imports again: the errors say so, and what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


HELPER = """\
import traceback
import worker

async def help(app):
    for call in (
        lambda: app.enqueue(worker.send, payload=worker.Mail('a')),
        lambda: app.enqueue(worker.Class, payload={'to': 'a'}),
        lambda: app.enqueue('Send', payload=worker.Mail('a')),
        lambda: worker.app.enqueue('Send', payload={'to': 'a'}),
    ):
        try:
            await call()
        except Exception as error:
            print(traceback.format_exception_only(error)[-1].strip())
"""
SAID = (
    ["UnknownHandler", "loaded twice", "'Send'"], ["UnknownHandler", "'worker'", "loaded twice", "'Class'"],
    ["InvalidPayload", "__main__.Mail", "worker.Mail"], ["NotStarted", "loaded twice", "module of their own"],
)  # fmt: skip


def test_what_the_errors_say(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "helper.py").write_text(HELPER, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "worker.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    for line, said in zip(done.stdout.splitlines(), SAID, strict=True):
        for part in said:
            assert part in line
