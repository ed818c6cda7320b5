"""The plugins that decide, wrap, stamp, seal or observe, against the contract for policies."""

from __future__ import annotations

from importlib.util import find_spec

from circuit_breaker import CircuitBreaker
from rate_limiter import Rate, RateLimiter

from aether_bg.testing.contracts import policy_contract

globals().update(policy_contract(lambda: RateLimiter(Rate(10, burst=5)), name="rate_limiter"))
globals().update(policy_contract(CircuitBreaker, name="circuit_breaker"))

if find_spec("cryptography"):
    from encryption import Sealed

    globals().update(policy_contract(lambda: Sealed({"k1": b"0123456789abcdef" * 2}), name="encryption"))

if find_spec("opentelemetry"):
    from opentelemetry_signals import Telemetry

    globals().update(policy_contract(Telemetry, name="opentelemetry"))
