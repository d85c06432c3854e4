"""Tasks on a connected Ray cluster, one a part.

Ray Data starts the tasks, holds them back while the object store is full, retries them and shows
them on the dashboard; the data goes straight from the object store to the worker.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from sunloom.errors import ClusterError

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

PARTITION_BYTES = 128 << 20
"""Bytes of a partition at most, so that a worker's memory holds several."""
STORE_SHARE = 10
"""A partition takes at most one tenth of an object store: several must fit side by side."""
# Results of blocks are accumulators and row counts, not rows.
_RESULT_BYTES = 8 << 20

Part = TypeVar("Part")
Done = TypeVar("Done")


def require_cluster() -> None:
    """Check that this process is connected to a cluster.

    Raises:
        ClusterError: It is not.
    """
    import ray

    if not ray.is_initialized():
        raise ClusterError("The Ray engine needs a connected cluster.", "Connect first.")


def map_parts(task: Callable[[Part], Done], parts: Sequence[Part]) -> Iterator[Done]:
    """Results of the task for each part, in the order in which they finish.

    Args:
        task: Runs in a worker.
        parts: Its arguments; they may contain Ray object references.

    Raises:
        Exception: The task's own, unwrapped.
    """
    import ray.data

    # One block a part: Ray Data could put several of these tiny rows into one block, thus one task.
    numbers = ray.data.from_items(
        [{"part": number} for number in range(len(parts))], override_num_blocks=len(parts)
    )
    # Ray counts references inside arguments; inside rows they would never be released.
    yield from _results(numbers, _run_part, fn_kwargs={"task": task, "parts": list(parts)})


def map_blocks(
    task: Callable[[pa.Table], Done], blocks: Sequence[Any], *, actors: int = 0, gpus: float = 0
) -> Iterator[Done]:
    """Small results of the task for each block, in the order of the blocks.

    Args:
        task: Runs in a worker.
        blocks: References to Arrow tables of one row, which go straight to the worker.
        actors: Processes at most that stay and run the task on one block after another; without
            them each block is a task.
        gpus: GPUs of each task or process.

    Raises:
        Exception: The task's own, unwrapped.
    """
    import ray.data

    if not blocks:
        return
    dataset = ray.data.from_arrow_refs(list(blocks))
    dataset.context.execution_options.preserve_order = True
    # Ray Data holds tasks back by what it thinks they will leave in the store: little, here.
    dataset.context.target_max_block_size = _RESULT_BYTES
    options: dict[str, Any] = {"fn_kwargs": {"task": task}}
    if actors:
        options["compute"] = ray.data.ActorPoolStrategy(min_size=1, max_size=actors)
    if gpus:
        options["num_gpus"] = gpus
    yield from _results(dataset, _BlockActor if actors else _run_block, **options)


def _results(dataset: Dataset, function: Any, **options: Any) -> Iterator[Any]:
    """What a function has left in the column ``done``, row by row."""
    results = dataset.map_batches(function, batch_size=1, batch_format="pyarrow", **options)
    # Whole blocks, as they finish: batches of a fixed size would wait for several tasks.
    for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
        for payload in batch["done"]:
            # A view of the batch's memory; as_py would copy the result.
            result = pickle.loads(payload.as_buffer())  # noqa: S301 - written by our own worker
            if isinstance(result, _Failed):
                raise result.error
            yield result


@dataclass(frozen=True)
class _Failed:
    error: Exception


def _run_part(batch: pa.Table, *, task: Callable[[Part], Done], parts: Sequence[Part]) -> pa.Table:
    (number,) = batch["part"].to_pylist()
    return _run_block(parts[number], task=task)


def _run_block(block: Part, *, task: Callable[[Part], Done]) -> pa.Table:
    import pyarrow as pa

    result: Done | _Failed
    try:
        result = task(block)
    except Exception as error:  # noqa: BLE001 - raised again where the result is read
        # Ray Data would wrap it in an error of its own, and its type would be lost.
        result = _Failed(error)
    # Not pa.binary: its 32-bit offsets end at 2 GiB.
    return pa.table({"done": pa.array([pickle.dumps(result, 5)], pa.large_binary())})


class _BlockActor:
    """Runs the task on one block after another in one process."""

    def __call__(self, batch: pa.Table, *, task: Callable[[pa.Table], Any]) -> pa.Table:
        return _run_block(batch, task=task)


def object_store_bytes() -> float:
    """The smallest object store of the cluster's nodes."""
    import ray

    stores = [node["Resources"].get("object_store_memory", 0.0) for node in ray.nodes()]
    return min((size for size in stores if size), default=float(PARTITION_BYTES * STORE_SHARE))


@contextmanager
def unwrap_task_errors() -> Iterator[None]:
    """Raise what a worker raised, without Ray's wrapping."""
    from ray.exceptions import RayTaskError

    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from error
        raise
