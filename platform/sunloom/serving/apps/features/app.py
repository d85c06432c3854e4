"""The app at ``/features``: reads answered where the store is, as a plain ASGI handler.

A FastAPI route costs some three times as much a request; these routes are read in loops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import parse_qs, unquote

from sunloom.config import Settings
from sunloom.core.database import open_database
from sunloom.errors import RequestError
from sunloom.feature_store.online.registry import (
    OnlineFeatureSet,
    definitions_of,
    open_feature_set,
)
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.feature_store.stores.online.protocol import OnlineStore
from sunloom.features.plan.polars_dtypes import EPOCH
from sunloom.serving.apps.features.ingest import ingest
from sunloom.serving.apps.features.openapi import openapi_document
from sunloom.serving.apps.features.request_rows import check_rows
from sunloom.serving.apps.features.transform import TransformHandler
from sunloom.serving.asgi.bodies import complete_lifespan, read_json, require_method, send_json
from sunloom.serving.asgi.types import ASGIApp, Receive, Scope, Send
from sunloom.serving.metrics.served_features import ServedFeatureSampler, StoredDefaults

_MOST_ENTITIES = 10_000
Handler = Callable[[OnlineStore, Mapping[str, Any]], Any]


def build_features_app(settings: Settings) -> ASGIApp:
    """The features' ASGI app; the guard goes in front of it."""
    store = open_online_store(settings)
    record_time = partial(stored_moment, store) if settings.serving.features.keep_answers else None
    answers = ServedFeatureSampler(open_database(settings), StoredDefaults(store), record_time)
    posts: Mapping[str, Handler] = {
        "ingest": ingest,
        "validate": check_rows,
        "transform": TransformHandler(settings),
    }

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await complete_lifespan(receive, send)
            return
        name = unquote(scope["path"].removeprefix("/features").strip("/"))
        if scope["method"] == "POST" and (name == "batch" or name in posts):
            body = await read_json(receive)
            if name == "batch":
                found, at = await read_batch(store, body)
                await send_json(send, 200, found)
                answers.observe(found["feature_set"], found["results"], at)
                return
            await send_json(send, 200, await asyncio.to_thread(posts[name], store, body))
            return
        require_method(scope, "GET")
        found, at = await _get(store, name, scope)
        await send_json(send, 200, found)
        if "entity_id" in found:
            answers.observe(found["feature_set"], [found], at)

    return app


async def _get(
    store: OnlineStore, name: str, scope: Scope
) -> tuple[dict[str, Any], datetime | None]:
    if not name:
        names = sorted({*store.feature_sets(), *definitions_of(store).streamed_sets()})
        return {"feature_sets": [describe_set(open_feature_set(store, one)) for one in names]}, None
    if name == "openapi.json":
        return openapi_document(), None
    query = read_query(scope["query_string"].decode("latin-1"))
    feature_set = open_feature_set(store, name)
    if "entity_id" not in query:
        # An unknown feature set is reported first.
        _ = feature_set.schema
        raise RequestError("The query names no entity_id.", param="entity_id")
    wanted = query["features"].split(",") if "features" in query else None
    now = moment(query["now"]) if "now" in query else None
    at = feature_set.as_of(now)
    [found] = await _entities(feature_set, [query["entity_id"]], wanted, at)
    return {"feature_set": name} | found, at


def describe_set(feature_set: OnlineFeatureSet) -> dict[str, Any]:
    """What a feature set holds."""
    schema = feature_set.schema
    fields = {field.name: field.dtype for field in schema.fields}
    return {
        "name": feature_set.name,
        "key": schema.key,
        "key_dtype": schema.key_dtype,
        "features": fields,
    }


def read_query(text: str) -> dict[str, str]:
    """A query's parameters, each with its first value; blank ones are left out."""
    if "%" in text or "+" in text:
        return {name: values[0] for name, values in parse_qs(text).items()}
    found: dict[str, str] = {}
    for part in text.split("&"):
        name, _, value = part.partition("=")
        if value:
            found.setdefault(name, value)
    return found


def stored_moment(store: OnlineStore, name: str, entity_id: Any) -> datetime | None:
    """As of when an entity's record holds."""
    [microseconds] = store.feature_times(name, [entity_id])
    return None if microseconds is None else EPOCH + timedelta(microseconds=microseconds)


async def read_batch(
    store: OnlineStore, body: Mapping[str, Any]
) -> tuple[dict[str, Any], datetime | None]:
    """``POST /features/batch``: many entities, in their order, and as of when.

    Raises:
        RequestError: The body lacks a field or holds too many entities.
    """
    name, ids, wanted = body.get("feature_set"), body.get("entity_ids"), body.get("features")
    if not isinstance(name, str):
        raise RequestError("feature_set must be a name.", param="feature_set")
    if not isinstance(ids, list) or not all(_is_id(one) for one in ids):
        raise RequestError("entity_ids must be a list of numbers or texts.", param="entity_ids")
    if len(ids) > _MOST_ENTITIES:
        raise RequestError(f"At most {_MOST_ENTITIES} entities a request.", param="entity_ids")
    if wanted is not None and not _are_names(wanted):
        raise RequestError("features must be a list of names.", param="features")
    now = moment(body["now"]) if body.get("now") is not None else None
    feature_set = open_feature_set(store, name)
    at = feature_set.as_of(now)
    return {"feature_set": name, "results": await _entities(feature_set, ids, wanted, at)}, at


async def _entities(
    feature_set: OnlineFeatureSet,
    ids: Sequence[int | str],
    wanted: Sequence[str] | None,
    at: datetime | None,
) -> list[dict[str, Any]]:
    """Read here; in a thread where the user's functions are called: others must not wait."""
    if feature_set.calls_functions(at):
        return await asyncio.to_thread(read_entities, feature_set, ids, wanted, at)
    return read_entities(feature_set, ids, wanted, at)


def read_entities(
    feature_set: OnlineFeatureSet,
    ids: Sequence[int | str],
    wanted: Sequence[str] | None,
    now: datetime | None = None,
) -> list[dict[str, Any]]:
    """One entry an entity; an unknown one is not found and all its features are null."""
    rows = feature_set.read(ids, wanted, now)
    schema = feature_set.schema
    nothing = dict.fromkeys(wanted if wanted is not None else schema.names)
    is_number = schema.key_dtype == "int64"
    return [
        {
            "entity_id": int(one) if is_number else str(one),
            "found": row is not None,
            "features": row if row is not None else nothing,
        }
        for one, row in zip(ids, rows, strict=True)
    ]


def moment(value: object) -> datetime:
    """A moment in a request.

    Raises:
        RequestError: It is no ISO timestamp with a zone.
    """
    try:
        # A plus sign that was not escaped arrives as a space.
        found = datetime.fromisoformat(str(value).replace(" ", "+"))
    except ValueError:
        found = datetime.min
    if found.tzinfo is None:
        raise RequestError(
            f"now {value!r} is not an ISO timestamp with a time zone.",
            "Write it like 2026-03-01T12:00:00Z.",
            "now",
        )
    return found


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
