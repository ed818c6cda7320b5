"""Without the extra the rest of this folder is not collected; this says so."""

from importlib.util import find_spec

import pytest


def test_the_extra_is_installed() -> None:
    if find_spec("grpc") is None:
        pytest.skip("the Dapr suite needs pip install 'aether-bg[dapr]' and a sidecar (dapr init --slim): nox -s dapr")
