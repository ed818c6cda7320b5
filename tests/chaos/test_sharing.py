"""One file opened in several ways by one process (docs/protocol.md, W10): what was acknowledged survives its kill."""

from __future__ import annotations

from pathlib import Path

import pytest
from plugins.sqlite.sharing import acknowledged_jobs_survive

WAYS = [
    "an_app_that_has_ended", "an_app_and_a_client", "the_users_connection_alone", "the_command_line",
    "an_app_in_a_handler", "a_copy_of_the_file", "a_copy_of_the_folder", "an_app_of_another_thread",
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_what_is_acknowledged_survives_a_kill(path: Path, way: str) -> None:
    acknowledged_jobs_survive(path, way)
