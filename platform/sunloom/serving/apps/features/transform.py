"""``POST /features/transform``: rows transformed by a fitted artifact of the registry."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import date, datetime
from functools import lru_cache
from typing import Any

from sunloom.config import Settings
from sunloom.core.caching import TtlCache
from sunloom.core.model_registry import ModelVersion, open_registry
from sunloom.errors import DataError, NotFoundError, RequestError
from sunloom.feature_store.stores.online.protocol import OnlineStore
from sunloom.preprocessing.artifact import KIND, load
from sunloom.preprocessing.pipeline import FittedPipeline

_MAX_ROWS = 10_000
_TRUSTED_S = 2.0
"""How long a name's version is cached before the registry is read again."""


class TransformHandler:
    """Handler of ``POST /features/transform``; keeps the artifacts that it has loaded.

    Args:
        settings: Settings of the registry.
    """

    def __init__(self, settings: Settings) -> None:
        self._registry = open_registry(settings)
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
        name, rows = body.get("artifact"), body.get("rows")
        if not isinstance(name, str) or not name:
            raise RequestError("artifact must be a name of the registry.", param="artifact")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise RequestError("rows must be a list of objects.", param="rows")
        if len(rows) > _MAX_ROWS:
            raise RequestError(f"At most {_MAX_ROWS} rows a request.", param="rows")
        version = self._versions.get_or_load(name, lambda: self._look_up(name))
        pipeline: FittedPipeline = self._load(version.uri)
        transformed = [_transform_row(pipeline, row, index) for index, row in enumerate(rows)]
        return {"artifact": version.ref, "rows": transformed}

    def _look_up(self, name: str) -> ModelVersion:
        version = self._registry.get(name)
        if version.kind != KIND:
            raise NotFoundError(
                f"{version.ref} is a model of kind {version.kind}, not {KIND}.",
                param="artifact",
                known={known.name for known in self._registry.list(kind=KIND)},
                name=version.name,
            )
        return version


def _transform_row(pipeline: FittedPipeline, row: Mapping[str, Any], index: int) -> dict[str, Any]:
    try:
        transformed = pipeline.apply_row(_parse_row(pipeline, row))
    except DataError as error:
        raise DataError(f"rows[{index}]: {error.message}", error.hint, error.param) from error
    for name, value in transformed.items():
        # JSON has no bytes: they go back as they came, as base64.
        if value.__class__ is bytes:
            transformed[name] = b64encode(value).decode()
    return transformed


def _parse_row(pipeline: FittedPipeline, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with text parsed in columns of times and bytes, for which JSON has no type."""
    parsed = {
        name: _PARSERS[kind](name, row[name])
        for name, kind in pipeline.kinds.items()
        if kind in _PARSERS and isinstance(row.get(name), str)
    }
    return {**row, **parsed} if parsed else row


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
