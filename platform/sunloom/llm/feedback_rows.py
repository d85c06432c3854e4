"""Tokenised completions with what training compares them with: the scores of its start.

The reference model of an objective is the one that training starts from, so it needs no weights of
its own: its log-probabilities are computed once, before the first step, and lie beside the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from typing_extensions import override

from sunloom.core.files import atomic_path
from sunloom.llm.encoding import Encoded, collate
from sunloom.llm.resuming import START_FILE
from sunloom.llm.token_store import Rows

# Pairs: twice as many sequences.
_ROWS_AT_ONCE = 4
Score = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Ids, labels and lengths to the score of each row."""


class FeedbackRows(Rows):
    """Rows with their scores before training.

    Args:
        rows: Of a store, or in memory.
        longest_other: Each row takes along its prompt with the completion of the row before it, of
            at most so many tokens; None without.
        start: Log-probabilities ``[N, 2]``, where they are known.
    """

    def __init__(
        self,
        rows: Sequence[Encoded],
        *,
        longest_other: int | None = None,
        start: NDArray[np.float32] | None = None,
    ) -> None:
        self._rows, self._longest_other, self._start = rows, longest_other, start

    def __len__(self) -> int:
        return len(self._rows)

    @override
    def _row(self, index: int) -> Encoded:
        row = self._rows[index]
        if self._longest_other is not None:
            # The row before the first one is the last.
            row = row.with_other_completion(self._rows[index - 1], self._longest_other)
        if self._start is None:
            return row
        return replace(row, start=tuple(self._start[index].tolist()))

    def with_start(self, start: NDArray[np.float32]) -> FeedbackRows:
        """The same rows with their scores before training ``[N, 2]``."""
        return FeedbackRows(self._rows, longest_other=self._longest_other, start=start)


def collate_sequences(
    sequences: Sequence[Encoded], pad: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids and labels, both ``[B, S]``, and the lengths ``[B]``."""
    ids, labels = map(torch.from_numpy, collate(sequences, pad))
    return ids, labels, torch.tensor([len(one.ids) for one in sequences])


def score_rows(
    score: Score, rows: Sequence[Encoded], lengths: Sequence[int], pad: int, device: torch.device
) -> NDArray[np.float32]:
    """Log-probabilities of both completions of each row, over all workers ``[N, 2]``.

    Args:
        score: Called as often on every worker: sharded weights are gathered.
        rows: With two sequences each.
        lengths: Of the rows, for batches of like length.
        pad: Token id that fills short rows.
        device: Where the model is.
    """
    is_shared = dist.is_initialized()
    rank, workers = (dist.get_rank(), dist.get_world_size()) if is_shared else (0, 1)
    order = np.argsort(lengths, kind="stable").tolist()
    # The same batches for any number of workers: what a row's score is must not depend on it.
    parts = [order[i : i + _ROWS_AT_ONCE] for i in range(0, len(order), _ROWS_AT_ONCE)]
    found = torch.zeros((len(rows), 2), device=device)
    for first in range(0, len(parts), workers):
        mine = parts[min(first + rank, len(parts) - 1)]
        sequences = [one for index in mine for one in rows[index].sequences()]
        scores = score(*(part.to(device) for part in collate_sequences(sequences, pad)))
        if first + rank < len(parts):
            found[mine] = scores.float().view(len(mine), 2)
    if is_shared:
        dist.all_reduce(found)
    result: NDArray[np.float32] = found.cpu().numpy()
    return result


def load_start(
    folder: Path, compute: Callable[[], NDArray[np.float32]], device: torch.device
) -> NDArray[np.float32]:
    """The scores before training that lie in a store's folder, computed where there are none.

    Call on every worker, before the weights change.

    Args:
        folder: The store's, shared by all workers.
        compute: What every worker runs.
        device: Where the model is.
    """
    path = folder / START_FILE
    # One worker's look decides for all: another could see the file that the first one writes.
    is_there = torch.tensor(float(path.is_file()), device=device)
    dist.broadcast(is_there, src=0)
    if is_there.item():
        stored: NDArray[np.float32] = np.load(path)
        return stored
    start = compute()
    if dist.get_rank() == 0:
        with atomic_path(path) as partial, partial.open("wb") as out:
            np.save(out, start)
    return start
