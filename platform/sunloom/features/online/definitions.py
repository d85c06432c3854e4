"""Plans in the store beside the values: how a read finds out what a feature set means."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sunloom.features.online.reader import OnlineReader
from sunloom.features.plan import Plan
from sunloom.features.store import OnlineStore
from sunloom.features.streaming.layout import Layout, build_layout

PLANS, STREAMS = "plan", "stream"
_readers: dict[tuple[int, str], tuple[list[bytes | None], OnlineReader]] = {}


def store_plan(store: OnlineStore, plan: Plan) -> None:
    """Keep the plan of a set that was written."""
    store.apply([(PLANS, plan.feature_set.encode(), plan.model_dump_json().encode())])


def store_stream(
    store: OnlineStore, plan: Plan, streamed: Iterable[str], tile_s: int | None
) -> Layout:
    """Keep the plan of a set that is streamed, and what its tiles hold; the layout."""
    layout = build_layout(plan, streamed, tile_s)
    stream = {"streamed": list(layout.streamed), "tile_s": tile_s}
    name = plan.feature_set.encode()
    store.apply(
        [
            (PLANS, name, plan.model_dump_json().encode()),
            (STREAMS, name, json.dumps(stream).encode()),
        ]
    )
    return layout


def stored_sets(store: OnlineStore) -> list[str]:
    """Names of feature sets with a plan, sorted."""
    return sorted(key.decode() for key, _ in store.scan(PLANS))


def open_reader(store: OnlineStore, feature_set: str) -> OnlineReader | None:
    """The reader of a feature set, compiled once; None where no plan is stored for it.

    Another plan in the store, or a first record, makes a new reader.
    """
    name = feature_set.encode()
    raw = [store.get_many(space, [name])[0] for space in (PLANS, STREAMS)]
    held = _readers.get((id(store), feature_set))
    if held is None or held[0] != raw:
        if raw[0] is None:
            return None
        held = (raw, _compiled(store, raw[0], raw[1]))
        _readers[id(store), feature_set] = held
    return held[1]


def _compiled(store: OnlineStore, plan_json: bytes, stream_json: bytes | None) -> OnlineReader:
    plan = Plan.model_validate_json(plan_json)
    stream: dict[str, Any] = json.loads(stream_json) if stream_json else {"streamed": []}
    layout = build_layout(plan, stream["streamed"], stream.get("tile_s"))
    return OnlineReader(store, plan, layout)
