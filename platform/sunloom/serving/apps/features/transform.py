"""``POST /features/transform``: rows transformed by a fitted artifact of the registry."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from functools import lru_cache
from typing import Any

from sunloom.config import Settings
from sunloom.core.caching import TtlCache
from sunloom.core.model_registry import ModelVersion, open_registry
from sunloom.errors import DataError, NotFoundError, RequestError
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.preprocessing.artifact import KIND, load
from sunloom.preprocessing.operations.images import count_pixels
from sunloom.preprocessing.pipeline import FittedPipeline
from sunloom.serving.apps.features.ingest import parse_rows

_TRUSTED_S = 2.0
"""How long a name's version is cached before the registry is read again."""


class TransformHandler:
    """Handler of ``POST /features/transform``; keeps the artifacts that it has loaded.

    Args:
        settings: Settings of the registry.
    """

    def __init__(self, settings: Settings) -> None:
        self._registry = open_registry(settings)
        self._most_pixels = settings.serving.limits.pixels
        self._versions = TtlCache[str, ModelVersion](_TRUSTED_S)
        # By URI: a version's files never change, so a cached artifact is never out of date.
        self._load = lru_cache(maxsize=16)(lambda uri: load(self._registry.store.fetch(uri)))

    def __call__(self, _store: OnlineStore, body: Mapping[str, Any]) -> dict[str, Any]:
        """Transform the body's rows, in order.

        Raises:
            NotFoundError: No such artifact; lists the known ones.
            RequestError: The body lacks a field, or has too many rows.
            DataError: A row lacks a column, or a value has the wrong type or is rejected.
        """
        name = body.get("artifact")
        if not isinstance(name, str) or not name:
            raise RequestError("artifact must be a name of the registry.", param="artifact")
        # Unlike a write, a transformation of no rows has a result.
        rows = parse_rows(body) if body.get("rows") != [] else []
        version = self._versions.get_or_load(name, lambda: self._look_up(name))
        pipeline: FittedPipeline = self._load(version.uri)
        parsed = [_parse_row(pipeline, row, index) for index, row in enumerate(rows)]
        _check_pixels(pipeline, parsed, self._most_pixels)
        transformed = [_transform_row(pipeline, row, index) for index, row in enumerate(parsed)]
        return {"artifact": version.ref, "rows": transformed}

    def _look_up(self, name: str) -> ModelVersion:
        # Pipelines are the operator's: a tenant's models are not even among the known names.
        version = self._registry.get(name, reader="")
        if version.kind != KIND:
            raise NotFoundError(
                f"{version.ref} is a model of kind {version.kind}, not {KIND}.",
                param="artifact",
                known={known.name for known in self._registry.list(kind=KIND)},
                name=version.name,
            )
        return version


def _parse_row(pipeline: FittedPipeline, row: Mapping[str, Any], index: int) -> Mapping[str, Any]:
    try:
        # Times and bytes come as text: JSON has no type for them.
        parsed = {
            name: _PARSERS[kind](name, row[name])
            for name, kind in pipeline.kinds.items()
            if kind in _PARSERS and isinstance(row.get(name), str)
        }
    except DataError as error:
        raise _in_row(error, index) from error
    return {**row, **parsed} if parsed else row


def _check_pixels(pipeline: FittedPipeline, rows: Sequence[Mapping[str, Any]], most: int) -> None:
    """Refuse images by their headers, before one of them is decoded."""
    names = [name for name, kind in pipeline.kinds.items() if kind == "bytes"]
    images = (row.get(name) for name in names for row in rows)
    pixels = 0
    for data in images:
        pixels += count_pixels(data) if isinstance(data, bytes) else 0
        if pixels > most:
            raise DataError(
                f"The images of a request have more than {most} pixels in all.",
                "Send smaller images, or fewer of them.",
                "rows",
            )


def _transform_row(pipeline: FittedPipeline, row: Mapping[str, Any], index: int) -> dict[str, Any]:
    try:
        transformed = pipeline.apply_row(dict(row))
    except DataError as error:
        raise _in_row(error, index) from error
    for name, value in transformed.items():
        # JSON has no bytes: they go back as they came, as base64.
        if value.__class__ is bytes:
            transformed[name] = b64encode(value).decode()
    return transformed


def _in_row(error: DataError, index: int) -> DataError:
    return DataError(f"rows[{index}]: {error.message}", error.hint, error.param)


def _parse_time(name: str, text: str) -> datetime | date:
    try:
        # YYYY-MM-DD has ten characters, and every datetime has more.
        return date.fromisoformat(text) if len(text) == 10 else datetime.fromisoformat(text)
    except ValueError as error:
        raise DataError(
            f"Column {name!r} has the value {text!r}, which is no ISO date or datetime.",
            "Write 2026-01-31T12:00:00Z.",
            name,
        ) from error


def _parse_bytes(name: str, text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError as error:
        raise DataError(
            f"Column {name!r} holds text that is no base64.",
            "Send bytes, such as an image's, as base64.",
            name,
        ) from error


_PARSERS: Mapping[str, Callable[[str, str], Any]] = {"time": _parse_time, "bytes": _parse_bytes}
