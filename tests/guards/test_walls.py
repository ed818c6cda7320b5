"""What is public, and who may import whom."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import aether_bg

PACKAGE = Path(aether_bg.__file__).parent

# -- what is public --------------------------------------------------------------------------------


PUBLIC = [
    "Aether", "AetherError", "AlreadyStarted", "Backoff", "CancelReason", "DaprScheduler", "DeniedSQL",
    "DependencyFailed", "DuplicateHandler", "DuplicatePlugin", "ForkedProcess", "GiveUp", "HandlerError",
    "HookShape", "IncompleteLayer", "InputError", "InsideUnitOfWork", "InvalidHandler", "InvalidMetadata",
    "InvalidName", "InvalidOption", "InvalidPayload", "InvalidSchedule", "InvalidTransition", "JobConflict",
    "JobContext", "JobError", "JobFailed", "JobInfo", "JobNotFound", "JobRun", "JobStatus", "JobType",
    "LayerConflict", "NameHeld", "NeverEnds", "NewJob", "NoResult", "NotADatabase", "NotAPlugin", "NotAnOwner",
    "NotStarted", "Parent", "PluginError", "Progress", "RunOutcome", "SQLiteStore",
    "SchedulerError", "SchedulerMisconfigured", "SchedulerUnavailable", "SchemaMissing", "SchemaTooNew", "Snooze",
    "Stale", "StoreBroken", "StoreBusy", "StoreContended", "StoreDenied", "StoreError", "StoreFolderMissing",
    "StoreFull", "StoreGone", "StoreIsDirectory", "StoreReadOnly", "StoreRefused", "StoreTrouble",
    "StoreUnreachable", "StoreUnsure", "TablesTaken", "TokenLost", "UnitOfWork", "UnitOfWorkClosed",
    "UnitOfWorkTimeout", "UnknownHandler", "UnknownHook", "UnresolvedDependency", "Unsupported", "UsageError",
    "WaitTimeout", "WrongLoop", "hookimpl", "schedule",
]  # fmt: skip


def test_what_is_public() -> None:
    assert sorted(aether_bg.__all__) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(name: str) -> None:
    if name == "DaprScheduler" and find_spec("grpc") is None:
        pytest.skip("needs the extra aether-bg[dapr]")
    assert getattr(aether_bg, name) is not None


def test_the_store_of_an_extra_is_there_by_name() -> None:
    """And is left out of `from aether_bg import *`, which must work without the extra."""
    pytest.importorskip("psycopg", reason="needs the extra aether-bg[postgres]")
    assert aether_bg.PostgresStore.__name__ == "PostgresStore"


def test_no_other_name_is_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Aethr'"):
        aether_bg.Aethr  # noqa: B018


# -- walls -----------------------------------------------------------------------------------------

PRIVATE = ("_app", "_upkeep", "_kernel", "_handlers", "_hooks", "_rules")


def imports(file: Path, *, deep: bool) -> Iterator[str]:
    """Full names of the modules that a file imports; `deep`: inside functions too. Not those for type checkers."""
    package = [*file.relative_to(PACKAGE.parent).with_suffix("").parts]

    def walk(nodes: list[ast.stmt]) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = [*package[: -node.level], *(node.module or "").split(".")] if node.level else [node.module or ""]
                module = ".".join(part for part in base if part)
                yield from (f"{module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                yield from walk(node.orelse)
            elif deep or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for part in ("body", "orelse", "finalbody"):
                    yield from walk(getattr(node, part, []))
                for branch in (*getattr(node, "handlers", []), *getattr(node, "cases", [])):
                    yield from walk(branch.body)

    return walk(ast.parse(file.read_text(encoding="utf-8")).body)


def breaches(room: str, *forbidden: str, deep: bool) -> list[str]:
    words = [other.rpartition(".")[2] for other in forbidden]  # a file without them need not be parsed
    files = sorted((PACKAGE / room).rglob("*.py")) if (PACKAGE / room).is_dir() else [PACKAGE / f"{room}.py"]
    assert files, room
    return [
        f"{file.relative_to(PACKAGE)} imports {name}"
        for file in files
        if any(word in file.read_text(encoding="utf-8") for word in words)
        for name in imports(file, deep=deep)
        if any(f"{name}.".startswith(f"aether_bg.{other}.") for other in forbidden)
    ]


def test_imports_are_found_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of the tests below."""
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "aether_bg")
    room = tmp_path / "aether_bg" / "plugins"
    room.mkdir(parents=True)
    (room / "bad.py").write_text(
        "import aether_bg._kernel.app\n"
        "from .._kernel import jobs\n"
        "from aether_bg import _kernel\n"
        "if TYPE_CHECKING:\n    from aether_bg._kernel.engine import Engine\n"
        "try:\n    from aether_bg._kernel.ids import uuid7\nexcept ImportError:\n    import aether_bg._kernel.view\n"
        "def late():\n    with x:\n        from aether_bg._kernel.work import current\n"
        "from aether_bg._kernels import other\n",
        encoding="utf-8",
    )
    shallow = ["app", "jobs", "", "ids.uuid7", "view"]
    found = [f"plugins/bad.py imports aether_bg._kernel.{name}".rstrip(".") for name in [*shallow, "work.current"]]
    assert [line.replace("\\", "/") for line in breaches("plugins", "_kernel", deep=True)] == found
    assert [line.replace("\\", "/") for line in breaches("plugins", "_kernel", deep=False)] == found[:-1]


def test_plugins_never_import_the_kernel() -> None:
    assert breaches("plugins", *PRIVATE, "testing", deep=True) == []


@pytest.mark.parametrize("room", PRIVATE)
def test_the_kernel_does_not_import_plugins(room: str) -> None:
    assert breaches(room, "plugins", deep=True) == []


def test_the_way_of_a_job_knows_nothing_of_what_builds_on_it() -> None:
    assert breaches("_kernel", "_upkeep", "_app", deep=True) == []
    assert breaches("_upkeep", "_app", deep=True) == []


@pytest.mark.parametrize(
    "room", ["hookspecs", "model", "errors", "schedule", "protocols", "bridge", "explain", "rows", "owners"]
)
def test_modules_for_plugin_authors_do_not_import_the_kernel(room: str) -> None:
    assert breaches(room, *PRIVATE, "plugins", deep=True) == []


@pytest.mark.parametrize("plugin", ["sqlite", "timer", "inprocess", "dapr"])
def test_no_plugin_imports_another(plugin: str) -> None:
    others = {"sqlite", "timer", "inprocess", "dapr"} - {plugin}
    assert breaches(f"plugins/{plugin}", *(f"plugins.{other}" for other in others), deep=True) == []
