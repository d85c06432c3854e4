"""Rows that come in over HTTP and go back prepared, by an artifact of the registry."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import date, datetime
from functools import lru_cache
from typing import Any

from sunloom.config import Settings
from sunloom.core.caching import TtlCache
from sunloom.core.model_registry import ModelRegistry, ModelVersion, open_registry
from sunloom.errors import DataError, NotFoundError, RequestError
from sunloom.feature_store.stores.online.protocol import OnlineStore
from sunloom.preprocessing.artifact import KIND, load
from sunloom.preprocessing.pipeline import FittedPipeline

_MOST_ROWS = 10_000
_ALIAS_S = 2.0
"""How long a name keeps its version before the registry is asked again."""

Prepare = Callable[[OnlineStore, Mapping[str, Any]], dict[str, Any]]


def prepare_rows(settings: Settings) -> Prepare:
    """``POST /features/transform``: the handler, which keeps the artifacts it has read.

    Args:
        settings: The registry.
    """
    find = _finder(open_registry(settings))

    def handle(_store: OnlineStore, body: Mapping[str, Any]) -> dict[str, Any]:
        """Prepare the body's rows, in order.

        Raises:
            NotFoundError: No such artifact; lists the known ones.
            RequestError: The body lacks a field, or holds too many rows.
            DataError: A row lacks a column, or a value is of another type or refused.
        """
        name, rows = body.get("artifact"), body.get("rows")
        if not isinstance(name, str) or not name:
            raise RequestError("artifact must be a name of the registry.", param="artifact")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise RequestError("rows must be a list of objects.", param="rows")
        if len(rows) > _MOST_ROWS:
            raise RequestError(f"At most {_MOST_ROWS} rows a request.", param="rows")
        version, fitted = find(name)
        prepared = [_prepared(fitted, row, place) for place, row in enumerate(rows)]
        return {"artifact": version.ref, "rows": prepared}

    return handle


def _finder(registry: ModelRegistry) -> Callable[[str], tuple[ModelVersion, FittedPipeline]]:
    versions = TtlCache[str, ModelVersion](_ALIAS_S)

    @lru_cache(maxsize=16)
    def read(uri: str) -> FittedPipeline:
        return load(registry.store.fetch(uri))

    def look_up(name: str) -> ModelVersion:
        version = registry.get(name)
        _require_kind(registry, version)
        return version

    def find(name: str) -> tuple[ModelVersion, FittedPipeline]:
        version = versions.get_or_load(name, lambda: look_up(name))
        return version, read(version.uri)

    return find


def _require_kind(registry: ModelRegistry, version: ModelVersion) -> None:
    if version.kind != KIND:
        known = {one.name for one in registry.list(kind=KIND)}
        raise NotFoundError(
            f"{version.ref} is a model of kind {version.kind}, not {KIND}.",
            param="artifact",
            known=known,
            name=version.name,
        )


def _prepared(fitted: FittedPipeline, row: Mapping[str, Any], place: int) -> dict[str, Any]:
    try:
        return _plain(fitted.apply_row(_typed(fitted, row)))
    except DataError as error:
        raise DataError(f"rows[{place}]: {error.message}", error.hint, error.param) from error


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Bytes as the text that they came as."""
    for name, value in row.items():
        if value.__class__ is bytes:
            row[name] = b64encode(value).decode()
    return row


def _typed(fitted: FittedPipeline, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """JSON has neither moments nor bytes: text in a column of them becomes one."""
    made = {
        name: _READERS[kind](name, row[name])
        for name, kind in fitted.kinds.items()
        if kind in _READERS and isinstance(row.get(name), str)
    }
    return {**row, **made} if made else row


def _moment(name: str, text: str) -> datetime | date:
    try:
        return date.fromisoformat(text) if len(text) == 10 else datetime.fromisoformat(text)
    except ValueError as error:
        raise DataError(
            f"Column {name!r} holds {text!r}, which is no ISO date or datetime.",
            "Write 2026-01-31T12:00:00Z.",
            name,
        ) from error


def _bytes(name: str, text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError as error:
        raise DataError(
            f"Column {name!r} holds text that is no base64.",
            "Send bytes, such as an image's, as base64.",
            name,
        ) from error


_READERS: Mapping[str, Callable[[str, str], Any]] = {"time": _moment, "bytes": _bytes}
