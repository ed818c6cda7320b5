"""The policies, wraps, codecs and words of the examples, through the door that others use."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path[:0] = [str(EXAMPLES), str(EXAMPLES / "plugins")]

from circuit_breaker import CircuitBreaker  # type: ignore[import-not-found]  # noqa: E402
from rate_limiter import Rate, RateLimiter  # type: ignore[import-not-found]  # noqa: E402
from schedule_words import WORD, Markets  # type: ignore[import-not-found]  # noqa: E402

from aether_bg.testing.contracts import policy_contract  # noqa: E402

globals().update(policy_contract(CircuitBreaker, name="breaker"))
globals().update(policy_contract(lambda: RateLimiter(Rate(1000)), name="limiter"))
globals().update(policy_contract(Markets, words=[WORD], name="words"))

if find_spec("cryptography") is not None:
    from encryption import Sealed  # type: ignore[import-not-found]

    globals().update(policy_contract(lambda: Sealed({"key": bytes(range(32))}), name="sealed"))
