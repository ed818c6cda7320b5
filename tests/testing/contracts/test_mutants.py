"""The contracts find faults: each of these plugins breaks one rule, and the report names it."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from engines import SCHEDULERS
from faulty import STORES
from policies_with_faults import POLICIES, RUNNERS

from aether_bg.testing.contracts import Contract, policy_contract, runner_contract, scheduler_contract, store_contract


@pytest.mark.parametrize("fault", STORES)
def test_a_faulty_store_breaks_its_rule(fault: str) -> None:
    number, check, make = STORES[fault]
    named(store_contract(make, limit=9), f"test_store_{check}", number, fault)


@pytest.mark.parametrize("fault", SCHEDULERS)
def test_a_faulty_scheduler_breaks_its_rule(fault: str) -> None:
    number, check, make = SCHEDULERS[fault]
    named(scheduler_contract(make, patience=2), f"test_scheduler_{check}", number, fault)


@pytest.mark.parametrize("fault", RUNNERS)
def test_a_faulty_runner_breaks_its_rule(fault: str) -> None:
    number, check, make = RUNNERS[fault]
    named(runner_contract(make), f"test_runner_{check}", number, fault)


@pytest.mark.parametrize("fault", POLICIES)
def test_a_faulty_policy_breaks_its_rule(fault: str) -> None:
    number, check, make = POLICIES[fault]
    named(policy_contract(make, words=["@still"]), f"test_policy_{check}", number, fault)


def named(contract: Contract[Any], name: str, number: str, fault: str) -> None:
    report = anyio.run(contract.run, name)
    assert not report.ok, f"{name} has nothing to say of a plugin that is faulty: {fault}"
    message = report.broken[name]
    assert message.startswith(f"{number}: ")
    assert ", because " in message
    assert ". Seen: " in message
    assert "no end within" not in message, "the check itself must see it"
