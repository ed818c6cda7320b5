"""The plugins that decide, wrap, stamp, seal or observe, and the words, against the contract for policies."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from circuit_breaker import CircuitBreaker
from rate_limiter import Rate, RateLimiter
from schedule_words import WORD, Markets

from aether_bg.testing.contracts import policy_contract

pytestmark = pytest.mark.one_loop
globals().update(policy_contract(lambda: RateLimiter(Rate(10, burst=5)), name="rate_limiter"))
globals().update(policy_contract(CircuitBreaker, name="circuit_breaker"))
globals().update(policy_contract(Markets, words=[WORD], name="schedule_words"))

if find_spec("cryptography"):
    from encryption import Sealed

    globals().update(policy_contract(lambda: Sealed({"k1": b"0123456789abcdef" * 2}), name="encryption"))

if find_spec("opentelemetry"):
    from opentelemetry_signals import Telemetry

    globals().update(policy_contract(Telemetry, name="opentelemetry"))
