"""A push scheduler of a third party, through the door that others use."""

from __future__ import annotations

from engines import with_one_engine

from aether_bg.testing.contracts import scheduler_contract

globals().update(scheduler_contract(with_one_engine(), name="push"))
