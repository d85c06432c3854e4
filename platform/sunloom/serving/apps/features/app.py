"""The app at ``/features``: a plain ASGI handler in the process that reads the store.

A FastAPI route takes some three times as long per request, and clients read in loops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from sunloom.config import Settings
from sunloom.core.database import open_database
from sunloom.errors import RequestError
from sunloom.feature_store.online.registry import (
    OnlineFeatureSet,
    definitions_of,
    open_feature_set,
)
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.features.plan.polars_dtypes import EPOCH
from sunloom.serving.apps.features.ingest import check_fields, check_rows, feature_set_of, ingest
from sunloom.serving.apps.features.openapi import OPENAPI_DOCUMENT
from sunloom.serving.apps.features.transform import TransformHandler
from sunloom.serving.asgi import (
    ASGIApp,
    Receive,
    Scope,
    Send,
    complete_lifespan,
    json_object,
    send_json,
)
from sunloom.serving.error_body import MethodNotAllowedError
from sunloom.serving.metrics.served_features import ServedFeatureSampler, StoredDefaults

_MAX_ENTITIES = 10_000
_ID_TYPES = frozenset({int, str})
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "batch": ("feature_set", "entity_ids", "features", "now"),
    "ingest": ("feature_set", "source", "rows"),
    "validate": ("feature_set", "rows"),
    "transform": ("artifact", "rows"),
}
"""Fields of each route's body."""
_FIRST_YEAR, _LAST_YEAR = 1000, 9000
Handler = Callable[[OnlineStore, Mapping[str, Any]], Any]


def build_features_app(settings: Settings) -> ASGIApp:
    """The features' ASGI app; the middleware goes in front of it."""
    store = open_online_store(settings)
    record_time = partial(record_time_of, store) if settings.serving.features.keep_answers else None
    sampler = ServedFeatureSampler(open_database(settings), StoredDefaults(store), record_time)
    handlers: Mapping[str, Handler] = {
        "ingest": partial(ingest, ahead=settings.serving.features.ahead),
        "validate": check_rows,
        "transform": TransformHandler(settings),
    }

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await complete_lifespan(receive, send)
            return
        name = scope["path"].removeprefix("/features").strip("/")
        if scope["method"] == "POST" and (name == "batch" or name in handlers):
            body = await json_object(scope, receive)
            check_fields(body, _FIELDS[name])
            if name == "batch":
                response, as_of = await read_batch(store, body)
                # The client has its response before the sample is counted.
                await send_json(send, 200, response)
                sampler.observe(response["feature_set"], response["results"], as_of)
                return
            await send_json(send, 200, await asyncio.to_thread(handlers[name], store, body))
            return
        if scope["method"] != "GET":
            problem = f"{scope['path']} does not take {scope['method']}."
            raise MethodNotAllowedError(problem, "Use GET.")
        response, as_of = await _get(store, name, scope)
        await send_json(send, 200, response)
        if "entity_id" in response:
            sampler.observe(response["feature_set"], [response], as_of)

    return app


async def _get(
    store: OnlineStore, name: str, scope: Scope
) -> tuple[dict[str, Any], datetime | None]:
    if not name:
        names = sorted({*store.feature_sets(), *definitions_of(store).streamed_sets()})
        sets = [describe_set(open_feature_set(store, set_name)) for set_name in names]
        return {"feature_sets": sets}, None
    # Before the look-up of a feature set, for which this name would be taken.
    if name == "openapi.json":
        return OPENAPI_DOCUMENT, None
    query = read_query(scope["query_string"].decode("latin-1"))
    feature_set = open_feature_set(store, name)
    if "entity_id" not in query:
        # An unknown feature set is reported first.
        _ = feature_set.schema
        raise RequestError("The query names no entity_id.", param="entity_id")
    features = query["features"].split(",") if "features" in query else None
    as_of = feature_set.as_of(parse_as_of(query["now"]) if "now" in query else None)
    [result] = await _read(feature_set, [query["entity_id"]], features, as_of)
    return {"feature_set": name} | result, as_of


def describe_set(feature_set: OnlineFeatureSet) -> dict[str, Any]:
    """Key and features of a feature set with their types."""
    schema = feature_set.schema
    return {
        "name": feature_set.name,
        "key": schema.key,
        "key_dtype": schema.key_dtype,
        "features": {field.name: field.dtype for field in schema.fields},
    }


def read_query(text: str) -> dict[str, str]:
    """A query's parameters, each with its first value; blank ones are left out."""
    # Splitting takes a fraction of parse_qs's time, and most queries have nothing to unescape.
    if "%" in text or "+" in text:
        return {name: values[0] for name, values in parse_qs(text).items()}
    parameters: dict[str, str] = {}
    for part in text.split("&"):
        name, _, value = part.partition("=")
        if value:
            parameters.setdefault(name, value)
    return parameters


def record_time_of(store: OnlineStore, name: str, entity_id: Any) -> datetime | None:
    """As-of time of an entity's stored record."""
    [microseconds] = store.feature_times(name, [entity_id])
    return None if microseconds is None else EPOCH + timedelta(microseconds=microseconds)


async def read_batch(
    store: OnlineStore, body: Mapping[str, Any]
) -> tuple[dict[str, Any], datetime | None]:
    """``POST /features/batch``: the response for many entities in their order, and its as-of time.

    Raises:
        RequestError: The body lacks a field or has too many entities.
    """
    name, ids, features = feature_set_of(body), body.get("entity_ids"), body.get("features")
    # By exact type, in C: JSON has no others, and Python's true is an integer.
    if not isinstance(ids, list) or not _ID_TYPES.issuperset(map(type, ids)):
        raise RequestError("entity_ids must be a list of numbers or texts.", param="entity_ids")
    if len(ids) > _MAX_ENTITIES:
        raise RequestError(f"At most {_MAX_ENTITIES} entities a request.", param="entity_ids")
    if features is not None and not (
        isinstance(features, list) and all(isinstance(feature, str) for feature in features)
    ):
        raise RequestError("features must be a list of names.", param="features")
    now = parse_as_of(body["now"]) if body.get("now") is not None else None
    feature_set = open_feature_set(store, name)
    as_of = feature_set.as_of(now)
    return {"feature_set": name, "results": await _read(feature_set, ids, features, as_of)}, as_of


async def _read(
    feature_set: OnlineFeatureSet,
    ids: Sequence[int | str],
    features: Sequence[str] | None,
    as_of: datetime | None,
) -> list[dict[str, Any]]:
    # A read of the store is faster than the way to a thread and back; the user's functions may
    # take long, and other requests must not wait for them.
    if feature_set.calls_functions(as_of):
        return await asyncio.to_thread(read_entities, feature_set, ids, features, as_of)
    return read_entities(feature_set, ids, features, as_of)


def read_entities(
    feature_set: OnlineFeatureSet,
    ids: Sequence[int | str],
    features: Sequence[str] | None,
    as_of: datetime | None,
) -> list[dict[str, Any]]:
    """One result per entity; an unknown one is not found and all its features are null."""
    rows = feature_set.read(ids, features, as_of)
    schema = feature_set.schema
    nulls = dict.fromkeys(features if features is not None else schema.names)
    is_number = schema.key_dtype == "int64"
    return [
        {
            "entity_id": int(entity) if is_number else str(entity),
            "found": row is not None,
            "features": row if row is not None else nulls,
        }
        for entity, row in zip(ids, rows, strict=True)
    ]


def parse_as_of(value: object) -> datetime:
    """The as-of time of a request.

    Raises:
        RequestError: It is not an ISO timestamp with a time zone.
    """
    try:
        # A plus sign that was not escaped arrives as a space.
        time = datetime.fromisoformat(value.replace(" ", "+")) if isinstance(value, str) else None
        # In the first and last hours of the calendar the time in UTC may be beyond it, and
        # windows before it are.
        utc = time.astimezone(UTC) if time is not None and time.tzinfo is not None else None
    except (ValueError, OverflowError):
        utc = None
    if utc is None or not _FIRST_YEAR <= utc.year <= _LAST_YEAR:
        shown = f"{value[:60]!r} " if isinstance(value, str) else ""
        raise RequestError(
            f"now {shown}is not an ISO timestamp with a time zone.",
            "Write it like 2026-03-01T12:00:00Z.",
            "now",
        )
    return utc
