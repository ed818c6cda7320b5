"""The contracts find faults: each of these plugins breaks one rule, and is told which."""

from __future__ import annotations

import anyio
import pytest
from faulty import STORES

from aether_bg.testing.contracts import store_contract


@pytest.mark.parametrize("fault", STORES)
def test_a_faulty_store_is_told_which_rule_it_breaks(fault: str) -> None:
    number, check, make = STORES[fault]
    name = f"test_store_{check}"
    report = anyio.run(store_contract(make, limit=20).run, name)
    assert not report.ok, f"{name} has nothing to say of a store that is faulty: {fault}"
    message = report.broken[name]
    assert message.startswith(f"{number}: ")
    assert ", because " in message
    assert ". Seen: " in message
