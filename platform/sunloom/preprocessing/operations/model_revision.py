"""Revision of a pretrained model: a folder's fingerprint, or the commit on the hub."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sunloom.errors import ArtifactError

_FOLDER = "sha256:"
_SUFFIXES = (".json", ".txt", ".safetensors", ".bin")


def folder_revision(folder: Path) -> str:
    """A fingerprint of the files that determine a model's vectors."""
    total = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
        total.update(f"{file.relative_to(folder)} {digest.hexdigest()}\n".encode())
    return f"{_FOLDER}{total.hexdigest()[:32]}"


def hub_commit(name: str, revision: str | None) -> str:
    """The commit that a branch, tag or commit of the hub is now.

    Raises:
        OSError: There is no such model, or the hub cannot be reached.
        ValueError: The name is none of the hub.
    """
    from huggingface_hub import hf_hub_download

    # A file's path in the cache holds its commit, which works without a network too.
    return Path(hf_hub_download(name, "config.json", revision=revision)).parent.name


def hub_revision(place: Path | str, revision: str | None) -> str | None:
    """The revision to load from the hub; None for a folder's fingerprint, which is checked instead.

    Raises:
        ArtifactError: The folder's files are not those of the fingerprint.
    """
    if revision is None or not revision.startswith(_FOLDER):
        return revision
    if revision != folder_revision(Path(place)):
        raise ArtifactError(
            f"The model in {place} is not the one that was there when fitting.",
            "Put that one back, or fit again.",
            "model",
        )
    return None
