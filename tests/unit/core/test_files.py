"""Files that a reader sees whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from sunloom.core.files import atomic_path, create_atomic, remove_partial, write_atomic


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
