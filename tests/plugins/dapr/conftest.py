from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from aether_bg.testing.sidecar import DaprRuntime, dapr_fixture, require_dapr

collect_ignore = [
    path.name for path in Path(__file__).parent.glob("test_*.py")
    if find_spec("grpc") is None and path.name != "test_installed.py"
]  # fmt: skip


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # grpc.aio knows no other


@pytest.fixture(autouse=True)
def _no_dapr_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sidecar outside of the tests must not leak into them."""
    for name in ("DAPR_GRPC_PORT", "DAPR_GRPC_ENDPOINT", "DAPR_HTTP_PORT", "APP_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("APP_API_TOKEN", "DAPR_API_TOKEN", "NAMESPACE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def need_dapr() -> None:
    require_dapr()


@pytest.fixture
def dapr(monkeypatch: pytest.MonkeyPatch) -> Iterator[DaprRuntime]:
    """A real pair, and the environment that `dapr run` would set."""
    for runtime in dapr_fixture():
        for name, value in runtime.env.items():
            monkeypatch.setenv(name, value)
        yield runtime
