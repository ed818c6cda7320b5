"""Modes, owners and links of the database and its folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from aether_bg import Aether, StoreError
from aether_bg.plugins.sqlite import files

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")


def start(path: Path) -> None:
    with Aether(path, scheduler="timer").blocking():
        pass


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_fresh_file_is_private_and_raises_no_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert warnings(caplog) == []


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o666, 0o604])
def test_a_mode_wider_than_0600_is_warned_about(path: Path, caplog: pytest.LogCaptureFixture, mode: int) -> None:
    start(path)
    path.chmod(mode)
    start(path)
    assert any(f"{mode:04o}" in text for text in warnings(caplog))


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_can_write_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)
    start(folder / "jobs.db")
    assert any(str(folder) in text and "replace" in text for text in warnings(caplog))


def test_a_sticky_folder_is_fine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    start(folder / "jobs.db")
    assert warnings(caplog) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_a_foreign_owner_is_warned_about(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start(path)
    os.chown(path, 12345, -1)
    start(path)
    assert any("uid 12345" in text for text in warnings(caplog))


@pytest.mark.parametrize("there", [True, False])
def test_a_link_put_in_between_the_check_and_the_opening_is_refused(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    victim = tmp_path / "victim.db"
    start(victim)
    before = victim.read_bytes()
    if there:
        start(path)
    real = files.check

    def check(checked: Path) -> bool:
        found = real(checked)
        path.unlink(missing_ok=True)
        path.symlink_to(victim)
        return found

    monkeypatch.setattr(files, "check", check)
    with pytest.raises(StoreError):
        start(path)
    assert victim.read_bytes() == before


@pytest.mark.parametrize("name", ["jobs.db", "jobs.db-lock"])
def test_a_link_is_never_followed(path: Path, tmp_path: Path, name: str) -> None:
    victim: Any = tmp_path / "victim"
    victim.write_bytes(b"")
    (tmp_path / name).symlink_to(victim)
    with pytest.raises(StoreError):
        start(path)
    assert victim.read_bytes() == b""
