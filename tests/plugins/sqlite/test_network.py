"""Which file system a path lies on: on a network, locks are not trusted."""

from __future__ import annotations

from pathlib import Path

import pytest

from aether_bg.plugins.sqlite.locks import on_network

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/data /data nfs4 rw 0 0
/dev/sdb1 /data/local ext4 rw 0 0
server:/more /more/a\\040b cifs rw 0 0
systemd-1 /auto autofs rw 0 0
server:/auto /auto nfs4 rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "network"),
    [
        ("/jobs.db", False),
        ("/data/jobs.db", True),
        ("/data/deep/down/jobs.db", True),
        ("/database/jobs.db", False),
        ("/data/local/jobs.db", False),
        ("/data/local/../jobs.db", True),
        ("/more/a b/jobs.db", True),
        ("/more/jobs.db", False),
        ("/auto/jobs.db", True),
    ],
)
def test_the_deepest_mount_decides_and_of_two_the_later(tmp_path: Path, path: str, network: bool) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert on_network(Path(path), mounts) is network


def test_a_link_lies_where_it_leads(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/there {tmp_path}/there nfs rw 0 0\n")
    (tmp_path / "there").mkdir()
    (tmp_path / "here.db").symlink_to(tmp_path / "there" / "jobs.db")
    assert on_network(tmp_path / "here.db", mounts)


def test_without_a_list_of_mounts_nothing_is_known(tmp_path: Path) -> None:
    assert not on_network(tmp_path / "jobs.db", tmp_path / "none")
