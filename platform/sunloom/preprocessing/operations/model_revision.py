"""What a model was when fitting: a folder's fingerprint, or the commit on the hub."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sunloom.errors import ArtifactError

_FOLDER = "sha256:"
_KINDS = (".json", ".txt", ".safetensors", ".bin")


def folder_mark(folder: Path) -> str:
    """A fingerprint of the files that make a model's numbers."""
    seen = hashlib.sha256()
    for file in sorted(one for one in folder.rglob("*") if one.suffix in _KINDS):
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256")
        seen.update(f"{file.relative_to(folder)} {digest.hexdigest()}\n".encode())
    return f"{_FOLDER}{seen.hexdigest()[:32]}"


def hub_commit(name: str, revision: str | None) -> str:
    """The commit that a branch, tag or commit of the hub is now.

    Raises:
        OSError: There is no such model, or the hub cannot be reached.
        ValueError: The name is none of the hub.
    """
    from huggingface_hub import hf_hub_download

    # A file's place in the cache bears its commit.
    return Path(hf_hub_download(name, "config.json", revision=revision)).parent.name


def hub_revision(place: Path | str, revision: str | None) -> str | None:
    """What to ask the hub for; nothing where a folder was pinned, which is checked instead.

    Raises:
        ArtifactError: The folder's files are not those of the fingerprint.
    """
    if revision is None or not revision.startswith(_FOLDER):
        return revision
    if revision != folder_mark(Path(place)):
        raise ArtifactError(
            f"The model in {place} is not the one that was there when fitting.",
            "Put that one back, or fit again.",
            "model",
        )
    return None
