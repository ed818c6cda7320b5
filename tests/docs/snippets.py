"""Fenced code blocks of a document, and how to run them."""

from __future__ import annotations

import ast
import inspect
import re
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import attrs

ROOT = Path(__file__).parents[2]


@attrs.frozen
class Snippet:
    """`words`: what follows the fence, `python signature` say; `section`: the nearest heading above."""

    document: str
    section: str
    words: tuple[str, ...]
    line: int
    code: str

    def run(self, names: dict[str, Any]) -> dict[str, Any]:
        """In `names`, with tracebacks that point into the document; `python await` inside `async with app:`."""
        awaits = "await" in self.words
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if awaits else 0
        code = compile("\n" * self.line + self.code, str(ROOT / self.document), "exec", flags=flags)
        if awaits:
            anyio.run(self._inside, types.FunctionType(code, names), names)
        else:
            exec(code, names)
        return names

    @staticmethod
    async def _inside(code: Callable[[], Any], names: dict[str, Any]) -> None:
        async with names["app"]:
            if inspect.isawaitable(result := code()):
                await result

    def __str__(self) -> str:
        return f"{self.section}:{self.line}"


@cache
def snippets(document: str, *words: str) -> list[Snippet]:
    """Blocks whose fence says exactly these words; all without."""
    found: list[Snippet] = []
    section, fence, block = "", None, list[str]()
    for number, line in enumerate((ROOT / document).read_text(encoding="utf-8").splitlines(), 1):
        if fence is not None:
            if line.strip() == "```":
                start, about = fence
                found.append(Snippet(document, section, about, start, "\n".join(block)))
                fence = None
            else:
                block.append(line)
        elif line.startswith("```"):
            fence, block = (number, tuple(line[3:].split())), []
        elif heading := re.match(r"#+ (.+)", line):
            section = heading[1]
    assert fence is None, f"{document}: the block at line {fence} is never closed"
    return [snippet for snippet in found if not words or snippet.words == words]


def table(document: str, heading: str, number: int = 1) -> list[list[str]]:
    """Cells of the n-th table under a heading, without its head; backticks removed."""
    text = (ROOT / document).read_text(encoding="utf-8")
    part = re.split(rf"^#+ {re.escape(heading)}$", text, maxsplit=1, flags=re.MULTILINE)[1]
    part = re.split(r"^#+ ", part, maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"(?:^\|.*\n)+", part, flags=re.MULTILINE)[number - 1].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
