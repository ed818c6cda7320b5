"""Running a contract: as pytest functions, and for a report without pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from faulty import STORES, Faulty

from aether_bg import SQLiteStore, hookimpl, schedule
from aether_bg.errors import InvalidOption
from aether_bg.plugins.memory import MemoryStore
from aether_bg.testing.contracts import (
    Contract,
    policy_contract,
    runner_contract,
    scheduler_contract,
    store_contract,
)

pytest_plugins = "pytester"

HERE = Path(__file__).parent


def in_a_file(place: Path) -> SQLiteStore:
    return SQLiteStore(place / "jobs.db")


def every_contract() -> list[Contract[Any]]:
    return [store_contract(in_a_file), scheduler_contract(object), runner_contract(object), policy_contract(object)]


@pytest.mark.parametrize("contract", every_contract(), ids=repr)
def test_every_rule_has_a_number_a_reason_and_a_name(contract: Contract[Any]) -> None:
    for name, rule in contract.rules.items():
        assert name == f"test_{repr(contract).split()[1].rstrip(':')}_{rule.name}"
        assert str(rule) == f"{rule.number}: {rule.law}, because {rule.because}"
        assert not any(text.endswith(".") for text in (rule.law, rule.because))
        assert contract[name].__doc__ == str(rule)


@pytest.mark.anyio
async def test_report_lists_rules_kept_broken_and_left_out() -> None:
    contract = store_contract(STORES["claims twice"][2], durable=False)
    names = ["each_job_once", "opened_again", "one_store_id"]
    report = await contract.run(*(f"test_store_{name}" for name in names))
    assert not report.ok
    assert list(report.kept) == ["test_store_one_store_id"]
    assert list(report.broken) == ["test_store_each_job_once"]
    assert report.left_out == {"test_store_opened_again": "not asked of a plugin that is not durable"}
    assert "C1: a claim hands out each job once, because two holders" in str(report)
    assert str(report).endswith("1 kept, 1 broken, 1 left out")


@pytest.mark.anyio
async def test_a_factory_may_be_a_context_manager() -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def make(place: Path) -> AsyncIterator[SQLiteStore]:
        seen.append("made")
        yield in_a_file(place)
        seen.append("cleaned up")

    assert (await store_contract(make).run("test_store_opened_again")).ok
    assert seen == ["made", "cleaned up"] * 2


@pytest.mark.anyio
async def test_object_without_hooks_breaks_every_rule_with_not_a_plugin() -> None:
    report = await store_contract(lambda place: object()).run("test_store_one_store_id")
    assert "NotAPlugin" in report.broken["test_store_one_store_id"]


@pytest.mark.anyio
async def test_hanging_store_breaks_the_rule_at_the_limit() -> None:
    async def hangs(*_: object) -> Any:
        await anyio.sleep_forever()

    contract = store_contract(lambda place: Faulty(in_a_file(place), store_stats=hangs), limit=0.5)
    report = await contract.run("test_store_one_store_id")
    assert "no end within 0.5 s" in report.broken["test_store_one_store_id"]


@pytest.mark.anyio
async def test_unknown_rule_or_contract_name_is_refused() -> None:
    with pytest.raises(InvalidOption, match="must be a rule of this contract"):
        await store_contract(in_a_file).run("test_store_nothing")
    with pytest.raises(InvalidOption, match="must be a lower-case identifier"):
        store_contract(in_a_file, name="My store")


class Lunch:
    @hookimpl
    def schedule_parse(self, text: str, timezone: str | None) -> schedule.Schedule | None:
        return schedule.parse("0 12 * * *", timezone) if text == "@lunch" else None


def test_rules_run_on_asyncio_alone_without_trio(tmp_path: Path) -> None:
    (tmp_path / "test_theirs.py").write_text(
        "from aether_bg.testing import policy_contract\n"
        "from test_running import Lunch\n"
        'globals().update(policy_contract(Lunch, words=["@lunch"]))\n'
    )
    (tmp_path / "without_trio.py").write_text(
        "import sys\n"
        "import pytest\n"
        "class Finder:\n"
        "    def __init__(self, finder): self.finder = finder\n"
        "    def __getattr__(self, name): return getattr(self.finder, name)\n"
        "    def find_spec(self, name, *more):\n"
        "        return None if name.split('.')[0] == 'trio' else self.finder.find_spec(name, *more)\n"
        "sys.meta_path[:] = map(Finder, sys.meta_path)\n"
        "sys.exit(pytest.main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "without_trio.py", "-v", "-p", "no:cacheprovider", "test_theirs.py"]
    environment = os.environ | {"PYTHONPATH": str(HERE), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout
    assert "[asyncio]" in done.stdout
    assert "trio]" not in done.stdout


def test_pytest_reports_a_broken_rule_in_one_sentence(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_theirs="""
        from faulty import STORES
        from aether_bg.testing.contracts import store_contract
        globals().update(store_contract(STORES["claims twice"][2], backends=["trio"]))
        """
    )
    done = pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider", "-k", "each_job_once")
    said = done.stdout.str()
    done.assert_outcomes(failed=1, deselected=len(store_contract(in_a_file)) - 1)
    assert "\nC1: a claim hands out each job once, because two holders" in said
    assert "Traceback" not in said
    assert "suite.py" not in said


def test_a_store_that_is_not_shared_learns_how_to_say_so() -> None:
    name = "test_store_another_opening_sees_it"
    report = anyio.run(store_contract(lambda place: MemoryStore()).run, name)
    assert report.broken[name].endswith(" If it cannot be shared, pass shared=False.")
