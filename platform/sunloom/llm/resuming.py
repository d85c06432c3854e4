"""Unfinished runs of the same recipe and data: found after a fault, and gone on from.

A run's folder says what it trains and on what; a lock on it, which ends with its process, says
whether somebody still does. The same command after a kill so goes on from the newest whole
checkpoint, with the history of losses and the best weights so far.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from sunloom.config.llm import LlmRecipe
from sunloom.core.files import write_atomic
from sunloom.core.progress import PROGRESS_FILE
from sunloom.core.telemetry import get_logger
from sunloom.core.trackers import TRACKERS_FILE
from sunloom.llm.checkpoints import newest_whole

EVALUATIONS_FILE = "evaluations.jsonl"
"""In a run's folder: step and held-out loss of each evaluation during training, one a line."""
TOKENS, VALIDATION = "tokens", "validation"
"""In a run's folder: stores of what is trained on, and of what is evaluated on in between."""
START_FILE = "start.npy"
"""In a store's folder: log-probabilities of each row's completions before training ``[N, 2]``."""
ROLLOUTS = "rollouts"
"""Folder in a run's folder: tokens, log-probabilities and rewards of the last steps."""
SAMPLES, PROMPTS = "samples.jsonl", "prompts.jsonl"
"""In a run's folder: the first group of each step in words, with its rewards; and messages and
columns of each row's prompt."""
_IDENTITY, _LOCK = "identity.json", "lock"


@dataclass(frozen=True)
class RunIdentity:
    """What a run trains.

    Attributes:
        fingerprint: Of the recipe.
        data: Hash of all conversations.
        tenant: Whose run it is; nobody goes on from another's.
    """

    fingerprint: str
    data: str
    tenant: str | None


@contextmanager
def claim_run(directory: Path, identity: RunIdentity) -> Iterator[None]:
    """Say what the run in a folder trains, and that it is being trained while the block lasts.

    A run whose block ended well is finished: nobody goes on from it.
    """
    with (directory / _LOCK).open("w") as lock:
        # Ends with the process, however that ends.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_atomic(directory / _IDENTITY, json.dumps(asdict(identity)))
        yield
        (directory / _IDENTITY).unlink()


def continue_unfinished(recipe: LlmRecipe, directory: Path, identity: RunIdentity) -> LlmRecipe:
    """The recipe with the run that it goes on from, if there is one; its history is taken over.

    Args:
        recipe: ``training.resume_from`` is kept where it is set; ``output.reuse: false`` starts
            anew.
        directory: The new run's folder.
        identity: What is trained.
    """
    earlier = recipe.training.resume_from
    if earlier is None and recipe.output.reuse:
        earlier = _find_unfinished(directory, identity, recipe.training.max_steps)
        if earlier is not None:
            get_logger("llm").info(
                "going on from the unfinished run in %s (output.reuse=false starts anew)", earlier
            )
            # The same rows: what the start gave them need not be computed again.
            for store in (TOKENS, VALIDATION):
                if (earlier / store / START_FILE).is_file():
                    (directory / store).mkdir(exist_ok=True)
                    shutil.copyfile(earlier / store / START_FILE, directory / store / START_FILE)
    if earlier is None:
        return recipe
    # The next step's may be drawn already, by weights that no checkpoint has.
    if (earlier / ROLLOUTS).is_dir():
        shutil.copytree(earlier / ROLLOUTS, directory / ROLLOUTS, dirs_exist_ok=True)
    for name in (PROGRESS_FILE, EVALUATIONS_FILE, TRACKERS_FILE, SAMPLES):
        if (earlier / name).is_file():
            shutil.copyfile(earlier / name, directory / name)
    # Where early stopping has kept the best weights so far, they may stay the best.
    if (earlier / "export").is_dir() and (earlier / EVALUATIONS_FILE).is_file():
        shutil.copytree(earlier / "export", directory / "export", dirs_exist_ok=True)
    training = recipe.training.model_copy(update={"resume_from": earlier})
    return recipe.model_copy(update={"training": training})


def _find_unfinished(directory: Path, identity: RunIdentity, max_steps: int) -> Path | None:
    """The run that is furthest on among those of the same identity that nobody trains."""
    found: list[tuple[int, Path]] = []
    for path in directory.parent.glob(f"*/{_IDENTITY}"):
        folder = path.parent
        if folder == directory or _is_locked(folder) or _read_identity(path) != identity:
            continue
        newest = newest_whole(folder / "train")
        if newest is not None and newest.step < max_steps:
            found.append((newest.step, folder))
    return max(found)[1] if found else None


def _read_identity(path: Path) -> RunIdentity | None:
    with suppress(ValueError, TypeError, OSError):
        return RunIdentity(**json.loads(path.read_text()))
    return None


def _is_locked(folder: Path) -> bool:
    try:
        with (folder / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
