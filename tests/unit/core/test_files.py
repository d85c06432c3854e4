"""Files that a reader sees whole or not at all, and folders that only their owner enters."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sunloom.core.files import (
    atomic_path,
    create_atomic,
    make_private,
    private_folder,
    private_umask,
    remove_partial,
    write_atomic,
)
from sunloom.errors import UsageError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_written_file_takes_the_other_ones_place_and_leaves_nothing_beside_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "folder" / "file.txt"
    write_atomic(path, "old")
    write_atomic(path, b"new")
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("durable", [True, False])
def test_an_error_leaves_the_old_content(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "file.txt"
    write_atomic(path, "old")
    with pytest.raises(ValueError, match="half"), atomic_path(path, durable=durable) as partial:
        partial.write_text("hal")
        raise ValueError("half")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with atomic_path(path) as first, atomic_path(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"


def test_only_one_creates_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    assert create_atomic(path, b"first")
    assert not create_atomic(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "part" / "file.txt"
    write_atomic(path, "whole")
    (path.parent / ".file.txt.0123456789ab.new").write_text("hal")
    remove_partial(tmp_path)
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_its_owners_and_a_wider_one_is_tightened(tmp_path: Path) -> None:
    assert mode(private_folder(tmp_path / "a" / "new")) == 0o700
    wide = tmp_path / "wide"
    wide.mkdir()
    wide.chmod(0o777)
    assert mode(private_folder(wide)) == 0o700
    assert mode(private_folder(wide, is_shared_place=True)) == 0o700
    sticky = tmp_path / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    assert not make_private(sticky)
    assert mode(sticky) == 0o1777


def test_a_link_in_a_place_that_anybody_writes_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    # Not by mkdir, whose mode an earlier test's umask may narrow.
    (tmp_path / "target").chmod(0o755)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(UsageError, match="another user"):
        private_folder(tmp_path / "link", is_shared_place=True)
    assert mode(tmp_path / "target") == 0o755


def test_another_users_folder_is_refused_where_anybody_makes_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    foreign.chmod(0o755)
    # To give a folder away, the tests would have to run as root: another user asks instead.
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(UsageError, match="another user"):
        private_folder(foreign, is_shared_place=True)
    # A volume that an administrator has mounted stays as he made it.
    assert mode(private_folder(foreign)) == 0o755


def test_what_is_made_under_the_umask_is_private(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with private_umask():
            (tmp_path / "inside").write_text("secret")
        (tmp_path / "after").write_text("open")
    finally:
        os.umask(before)
    assert (mode(tmp_path / "inside"), mode(tmp_path / "after")) == (0o600, 0o644)
