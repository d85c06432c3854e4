"""The artifact store: immutable folders by URI, checked against their manifest.

Artifacts of one recipe and its inputs are found again by their fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec

from sunloom.errors import ArtifactError


def fingerprint(*parts: Any) -> str:
    """A short stable hash of plain data: equal inputs, equal artifact."""
    # Registered artifacts are found by this text's hash: any change of its form orphans them.
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class ArtifactStore:
    """Immutable folders under one root, local or any fsspec URI.

    Args:
        uri: Root folder or URI.
        cache: Local folder for copies of remote artifacts.
    """

    def __init__(self, uri: str, cache: Path) -> None:
        self.uri = uri.rstrip("/")
        self._cache = cache

    def put(self, local: Path, name: str) -> str:
        """Copy a folder into the store; readers see all of it or nothing.

        Args:
            local: Folder to copy.
            name: Leading part of the artifact's name.

        Returns:
            The artifact's URI.

        Raises:
            ArtifactError: The folder is missing or empty, or the store cannot be written.
        """
        if not local.is_dir() or not any(local.iterdir()):
            raise ArtifactError(f"There is nothing to store in {local}.")
        # A new suffix each time: artifacts are never overwritten, so cached copies cannot be stale.
        target = f"{self.uri}/{name}/{uuid.uuid4().hex[:12]}"
        try:
            _copy_in(local, target, _manifest(local))
        except OSError as error:
            raise ArtifactError(
                f"The artifact {name!r} cannot be written to {self.uri}: {error}",
                "Earlier artifacts are whole. Free space or fix the permission and run again.",
            ) from error
        return target

    def fetch(self, uri: str) -> Path:
        """A local folder with the artifact's files, checked against its manifest.

        Raises:
            ArtifactError: The artifact is missing, or a file is missing, cut off or changed.
        """
        local = Path(uri) if _is_local(uri) else self._download(uri)
        _check(local, uri)
        return local

    def _download(self, uri: str) -> Path:
        target = self._cache / hashlib.sha256(uri.encode()).hexdigest()[:24]
        if not target.is_dir():
            self._cache.mkdir(parents=True, exist_ok=True)
            # On the same file system as the target, where a rename is atomic.
            staging = Path(tempfile.mkdtemp(dir=self._cache))
            filesystem, path = fsspec.core.url_to_fs(uri)
            # With a slash at the source's end, fsspec copies what is inside the folder.
            filesystem.get(f"{path}/", f"{staging}/", recursive=True)
            _publish(staging, target)
        return target


MANIFEST = "artifact.manifest.json"


# Sizes instead of checksums: they reveal a truncated file without reading all of it on each fetch.
def _manifest(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in files
        # A folder that was fetched from a store brings the manifest of its old artifact along.
        if path.name != MANIFEST
    }


def _copy_in(local: Path, target: str, manifest: Mapping[str, int]) -> None:
    text = json.dumps(manifest, indent=1)
    if _is_local(target):
        destination = Path(target)
        destination.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=destination.parent, prefix=".staging-"))
        shutil.copytree(local, staging, dirs_exist_ok=True)
        (staging / MANIFEST).write_text(text)
        _publish(staging, destination)
        return
    filesystem, path = fsspec.core.url_to_fs(target)
    filesystem.put(f"{local}/", f"{path}/", recursive=True)
    # The manifest goes last: an artifact without one is incomplete.
    with filesystem.open(f"{path}/{MANIFEST}", "w") as file:
        file.write(text)


def _publish(staging: Path, destination: Path) -> None:
    # mkdtemp makes folders that only this user may read; a server may run as another one.
    staging.chmod(0o755)
    try:
        staging.rename(destination)
    except OSError:
        # Another process may have published the same content first.
        shutil.rmtree(staging)
        if not destination.is_dir():
            raise


def _check(local: Path, uri: str) -> None:
    manifest = local / MANIFEST
    if not manifest.is_file():
        raise ArtifactError(f"The artifact {uri} is missing or was never finished.")
    for name, size in json.loads(manifest.read_text()).items():
        path = local / name
        if not path.is_file() or path.stat().st_size != size:
            raise ArtifactError(
                f"The artifact {uri} is damaged: {name} is missing or not {size} bytes long.",
                "Register it again, or promote another version.",
            )


def _is_local(uri: str) -> bool:
    return "://" not in uri
