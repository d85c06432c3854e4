"""A checkpoint is written beside the training, and loaded whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tiny_llama import build_base

from sunloom.config.llm import Ddp, Distributed, Fsdp, TrainingConfig
from sunloom.errors import CheckpointError
from sunloom.llm.checkpoints import CheckpointWriter, check, newest_whole, seal
from sunloom.llm.distributed import Parallel, build_parallel
from sunloom.llm.models import load_model
from sunloom.llm.optimization import CausalLoss


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


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of one worker."""
    store = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def _train(parallel: Parallel, steps: int) -> list[Any]:
    """Losses of some steps on the same row."""
    ids = torch.arange(5, 25).reshape(1, -1)
    losses = []
    for _ in range(steps):
        losses.append(parallel.add_gradient(ids, ids, scales=[1 / 19], is_last=True).item())
        parallel.step(1e-2)
    return losses


@pytest.mark.parametrize("kind", [Ddp(), Fsdp()], ids=["ddp", "fsdp"])
def test_what_is_written_later_is_the_state_of_the_moment(
    kind: Distributed, alone: None, tmp_path: Path
) -> None:
    base = str(build_base(tmp_path / "base"))

    def build() -> Parallel:
        config = TrainingConfig(distributed=kind, method="full", workers=1)
        return build_parallel(CausalLoss(load_model(base), torch.float32), config)

    first, second = build(), build()
    _train(first, 2)
    finish = first.save(tmp_path / "checkpoint", 2)
    # Every weight, moment and count has changed when it is written.
    expected = _train(first, 3)
    finish()
    second.load(tmp_path / "checkpoint")
    assert _train(second, 3) == expected


def test_the_training_goes_on_while_a_checkpoint_is_written_and_an_error_stops_it() -> None:
    writer, release, saved = CheckpointWriter(0, 1), threading.Event(), []

    def save(folder: Path, step: int) -> Callable[[], None]:
        saved.append((folder, step))

        def fill_the_disk() -> None:
            release.wait(60)
            raise OSError(28, "No space left on device")

        return fill_the_disk

    writer.write(save, 5, 0.1)
    assert not release.is_set()
    assert writer.stall_s < 10
    release.set()
    with pytest.raises(OSError, match="No space left"):
        writer.write(save, 10, 0.1)
    assert [step for _, step in saved] == [5]
    assert not saved[0][0].exists()
