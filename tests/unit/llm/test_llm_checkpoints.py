"""A checkpoint is loaded whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sunloom.errors import CheckpointError
from sunloom.llm.checkpoints import check, newest_whole, seal


def _checkpoint(root: Path, step: int) -> Path:
    folder = root / "train" / f"checkpoint_{step:04d}"
    folder.mkdir(parents=True)
    for rank in range(2):
        part = folder / f"rank{rank}"
        part.mkdir()
        (part / "weights.bin").write_bytes(bytes([rank, step]) * 500)
        seal(part, rank=rank, world_size=2, step=step)
        # Ray merges the ranks' folders into one.
        (part / "weights.bin").rename(folder / f"weights-{rank}.bin")
        manifest = part / f"manifest-{rank}.json"
        text = manifest.read_text().replace("weights.bin", f"weights-{rank}.bin")
        (folder / manifest.name).write_text(text)
        manifest.unlink()
        part.rmdir()
    return folder


def test_a_whole_checkpoint_says_its_step_and_world(tmp_path: Path) -> None:
    whole = check(_checkpoint(tmp_path, 20))
    assert (whole.step, whole.world_size) == (20, 2)


def _cut(folder: Path) -> None:
    path = folder / "weights-1.bin"
    path.write_bytes(path.read_bytes()[:-1])


def _flip(folder: Path) -> None:
    path = folder / "weights-0.bin"
    path.write_bytes(b"x" + path.read_bytes()[1:])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a file is cut off": _cut,
    "a byte is changed": _flip,
    "a file is missing": lambda folder: (folder / "weights-0.bin").unlink(),
    "a rank never finished": lambda folder: (folder / "manifest-1.json").unlink(),
    "a manifest is cut off": lambda folder: (folder / "manifest-0.json").write_text('{"ra'),
    "nothing was sealed": lambda folder: [p.unlink() for p in folder.glob("manifest-*")],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_one_is_refused_and_the_one_before_is_found(
    damage: Callable[[Path], object], tmp_path: Path
) -> None:
    _checkpoint(tmp_path, 10)
    newest = _checkpoint(tmp_path, 20)
    damage(newest)
    with pytest.raises(CheckpointError):
        check(newest)
    newest = newest_whole(tmp_path / "train")
    assert newest is not None
    assert newest.step == 10


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest_whole(tmp_path) is None
    assert newest_whole(tmp_path / "absent") is None
