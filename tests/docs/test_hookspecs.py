"""hookspecs.md: every hook is there, with the signature and shape it has, and every example runs."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from aether_bg import Aether, SQLiteStore, errors, hookimpl
from aether_bg.hookspecs import LAYERS, SPECS
from aether_bg.plugins.timer import Timer

from .snippets import ROOT, Snippet, snippets, table

DOCUMENT = "hookspecs.md"
OWNED = {*LAYERS["persistence"], *LAYERS["scheduling"], "schedule_arm"}


def written(spec: Callable[..., Any]) -> str:
    """A signature as its file has it."""
    signature = inspect.signature(spec)
    parameters = ", ".join(f"{p.name}: {p.annotation}" for p in list(signature.parameters.values())[1:])
    word = "async def" if inspect.iscoroutinefunction(spec) else "def"
    return f"{word} {spec.__name__}({parameters}) -> {signature.return_annotation}"


def section(hook: str) -> str:
    text = (ROOT / DOCUMENT).read_text(encoding="utf-8")
    return re.split(rf"^### {hook}$", text, flags=re.MULTILINE)[1].split("\n##")[0]


def prelude() -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "hookspecs_md"}
    for snippet in snippets(DOCUMENT, "python", "prelude"):
        snippet.run(names)
    return names


def test_documented_are_the_hooks_there_are() -> None:
    assert len(SPECS) == 20
    signatures = snippets(DOCUMENT, "python", "signature")
    assert {snippet.section: snippet.code for snippet in signatures} == {n: written(s) for n, s in SPECS.items()}


@pytest.mark.parametrize("hook", SPECS)
def test_shape_is_the_one_pluggy_has(hook: str) -> None:
    said = re.search(r"^- \*\*Shape\*\* (\w+)", section(hook), re.MULTILINE)
    assert said is not None, f"{hook} says no shape"
    spec = SPECS[hook]
    first, awaited = vars(spec)["aether_bg_spec"]["firstresult"], inspect.iscoroutinefunction(spec)
    shapes = {
        "owned": (hook in OWNED, True, True),
        "policy": (True, True, False),
        "wrap": (hook == "dispatch_wrap", False, False),
        "collect": (hook != "dispatch_wrap", False, False),
        "start": (hook == "lifecycle_start", False, True),
        "observe": (hook == "lifecycle_event", False, True),
    }
    assert shapes[said[1]] == (True, first, awaited)
    assert f"Shape: {said[1]}" in (spec.__doc__ or ""), "hookspecs.py says another shape"


@pytest.mark.parametrize("hook", SPECS)
def test_says_when_it_is_called_and_what_errors_do(hook: str) -> None:
    assert {"**Called**", "**Errors**"} <= set(re.findall(r"^- (\*\*\w+\*\*)", section(hook), re.MULTILINE))


EXAMPLES = snippets(DOCUMENT, "python")


@pytest.mark.parametrize("snippet", EXAMPLES, ids=str)
def test_example_runs(snippet: Snippet) -> None:
    snippet.run(prelude())


@pytest.mark.parametrize("hook", SPECS)
def test_every_hook_has_an_example_that_uses_it(hook: str) -> None:
    """Implements it, or asks a store by it."""
    codes = [snippet.code for snippet in EXAMPLES if snippet.section == hook]
    assert any(re.search(rf"(?:def |store\.){hook}\(", code) for code in codes)


def test_store_of_the_tutorial_passes_what_the_document_asks_of_stores() -> None:
    names = prelude()
    for snippet in EXAMPLES:
        if snippet.section == "Write a store":
            snippet.run(names)
        elif snippet.section.startswith("store_"):
            attrs.evolve(snippet, code=re.sub(r"^on\(SQLiteStore.*", "", snippet.code, flags=re.MULTILINE)).run(names)
    blocks = snippets(DOCUMENT, "python", "store")
    assert len(blocks) == 1
    for snippet in blocks:
        snippet.run(names)


def test_excerpts_of_the_memory_store_are_its_source() -> None:
    source = (ROOT / "aether_bg" / "plugins" / "memory.py").read_text(encoding="utf-8")
    excerpts = snippets(DOCUMENT, "python", "source")
    assert len(excerpts) == 3
    for excerpt in excerpts:
        assert textwrap.indent(excerpt.code, "    ") in source, f"{DOCUMENT}:{excerpt.line} differs from the file"


def test_the_contracts_make_tests_as_documented() -> None:
    (snippet,) = snippets(DOCUMENT, "python", "pytest")
    names = snippet.run({"MyStore": SQLiteStore, "MyScheduler": Timer})
    made = [name for name in names if name.startswith("test_")]
    assert len(made) > 60
    assert all(inspect.isroutine(names[name]) for name in made)


def test_every_hook_is_used_by_a_test_or_an_example() -> None:
    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    documented = [s.code for s in snippets(DOCUMENT) if "signature" not in s.words]
    used = {
        hook
        for text in [*(file.read_text(encoding="utf-8") for file in files), *documented]
        for hook in re.findall(r"\b\w+(?=\()", text)
    }
    assert set(SPECS) - used == set()


# -- what registration refuses ---------------------------------------------------------------------


def test_registration_errors_read_as_documented() -> None:
    assert [row[2].strip("`") for row in table(DOCUMENT, "What registration refuses")] == [
        refused(*plugins) for plugins in MISTAKES
    ]
    assert [row[0].strip("`") for row in table(DOCUMENT, "What registration refuses")] == [
        refused_as(*plugins) for plugins in MISTAKES
    ]


def test_every_plugin_error_is_documented() -> None:
    documented = {row[0].strip("`") for row in table(DOCUMENT, "What registration refuses")}
    assert documented == {kind.__name__ for kind in errors.PluginError.__subclasses__()}


def error_of(*plugins: Any) -> errors.PluginError:
    with pytest.raises(errors.PluginError) as caught:
        Aether(":memory:" if not any(isinstance(p, Half) for p in plugins) else None, plugins=plugins)
    return caught.value


def refused(*plugins: Any) -> str:
    return str(error_of(*plugins)).replace(f"{__name__}.", "")


def refused_as(*plugins: Any) -> str:
    return type(error_of(*plugins)).__name__


class Misspelt:
    @hookimpl
    def dispatch_rap(self, ctx: Any) -> None: ...


class NotAsync:
    @hookimpl
    def lifecycle_event(self, event: Any) -> None: ...


class TooAsync:
    @hookimpl
    async def dispatch_wrap(self, ctx: Any) -> None: ...


class Strange:
    @hookimpl
    def dispatch_wrap(self, context: Any) -> None: ...


class Defaulted:
    @hookimpl
    def dispatch_wrap(self, ctx: Any = None) -> None: ...


class Short:
    @hookimpl
    async def schedule_run(self) -> None: ...


class Wrapper:
    @hookimpl(wrapper=True)
    def dispatch_wrap(self, ctx: Any) -> Any:
        return (yield)


class Half:
    @hookimpl
    async def store_find(self, query: Any) -> Any: ...


class First:
    @hookimpl
    async def schedule_run(self, kernel: Any) -> None: ...


class Second:
    @hookimpl
    async def schedule_run(self, kernel: Any) -> None: ...


class Once:
    @hookimpl
    async def lifecycle_event(self, event: Any) -> None: ...


@attrs.define
class Equal:
    @hookimpl
    async def lifecycle_event(self, event: Any) -> None: ...


once = Once()
MISTAKES: list[tuple[Any, ...]] = [
    (Misspelt(),),
    (NotAsync(),),
    (TooAsync(),),
    (Strange(),),
    (Defaulted(),),
    (Short(),),
    (Wrapper(),),
    (Half(),),
    (First(), Second()),
    (once, once),
    (Equal(), Equal()),
    (Once,),
    ("a string",),
]
