"""The contracts find faults: each of these plugins breaks one rule, and is told which."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from engines import SCHEDULERS
from faulty import STORES

from aether_bg.testing.contracts import Contract, scheduler_contract, store_contract


@pytest.mark.parametrize("fault", STORES)
def test_a_faulty_store_is_told_which_rule_it_breaks(fault: str) -> None:
    number, check, make = STORES[fault]
    named(store_contract(make, limit=20), f"test_store_{check}", number, fault)


@pytest.mark.parametrize("fault", SCHEDULERS)
def test_a_faulty_scheduler_is_told_which_rule_it_breaks(fault: str) -> None:
    number, check, make = SCHEDULERS[fault]
    named(scheduler_contract(make, patience=4), f"test_scheduler_{check}", number, fault)


def named(contract: Contract[Any], name: str, number: str, fault: str) -> None:
    report = anyio.run(contract.run, name)
    assert not report.ok, f"{name} has nothing to say of a plugin that is faulty: {fault}"
    message = report.broken[name]
    assert message.startswith(f"{number}: ")
    assert ", because " in message
    assert ". Seen: " in message
