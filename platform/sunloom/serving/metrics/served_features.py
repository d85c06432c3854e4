"""Sample of served features: rates of unknown entities, nulls and defaults, and whole results.

The whole results are compared with offline values: ``sunloom features skew --served``.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from threading import Timer
from typing import Any

import orjson
from sqlalchemy import JSON, String, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.core.database import Base, Database, UtcDateTime, utc_now
from sunloom.core.telemetry import get_logger
from sunloom.feature_store.stores.online.key_value import PLANS
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.features.plan.feature_sets import Plan
from sunloom.monitoring.stored_results import ServedResult, store_served
from sunloom.serving.asgi import encode_json

# One result in eight costs the hot path less than can be measured.
_ONE_IN = 8
# A batch may have 10,000 entities, and counting runs on the event loop.
_MOST_ENTITIES = 50
_FLUSH_S = 5.0
# Bounds the memory while the database does not answer.
_MOST_WAITING = 500

Defaults = Callable[[str], Mapping[str, Any]]
"""Returns a feature set's defaults by feature."""
RecordTime = Callable[[str, Any], datetime | None]
"""Returns the as-of time of an entity's stored record."""


class ServedFeaturesRow(Base):
    """The counts of one replica since it started."""

    __tablename__ = "serving_answers"

    replica: Mapped[str] = mapped_column(String(80), primary_key=True)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


@dataclass
class _FeatureSetCounts:
    entities: int = 0
    unknown: int = 0
    # Feature to its values, nulls and defaults among known entities.
    features: dict[str, list[int]] = field(default_factory=dict)


class StoredDefaults:
    """Defaults of features, from the plans in the online store.

    Args:
        store: The store.
    """

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        # Stored plan and the defaults parsed from it, by feature set.
        self._parsed: dict[str, tuple[bytes | None, Mapping[str, Any]]] = {}

    def __call__(self, feature_set: str) -> Mapping[str, Any]:
        """Defaults by feature; empty for a set without a plan."""
        (encoded,) = self._store.get_many(PLANS, [feature_set.encode()])
        previous, defaults = self._parsed.get(feature_set, (None, {}))
        # Comparing the bytes costs less than parsing them, and a new plan counts at once.
        if encoded is not None and encoded != previous:
            features = Plan.model_validate_json(encoded).root.features
            defaults = {
                feature.name: feature.default.value
                for feature in features
                if feature.default is not None
            }
            self._parsed[feature_set] = (encoded, defaults)
        return defaults if encoded is not None else {}


class ServedFeatureSampler:
    """Counts a sample of a replica's results and writes the counts every few seconds.

    Args:
        database: Holds the counts of all replicas.
        defaults: Defaults of a feature set.
        record_time: If given, one entity of each sampled result is kept with its as-of time.
    """

    def __init__(
        self, database: Database, defaults: Defaults, record_time: RecordTime | None = None
    ) -> None:
        self._database = database
        self._defaults = defaults
        self._record_time = record_time
        self._waiting: list[ServedResult] = []
        self._replica = secrets.token_hex(8)
        self._sets: dict[str, _FeatureSetCounts] = {}
        self._calls = 0
        self._is_due = False

    def observe(
        self,
        feature_set: str,
        results: Sequence[Mapping[str, Any]],
        as_of: datetime | None = None,
    ) -> None:
        """Count one result in eight; costs next to nothing for the others.

        Args:
            feature_set: The feature set that was read.
            results: One result per entity.
            as_of: As-of time of the read; None for stored records, which have their own.
        """
        self._calls += 1
        if self._calls % _ONE_IN != 1:
            return
        self._keep(feature_set, results, as_of)
        counts = self._sets.setdefault(feature_set, _FeatureSetCounts())
        defaults = self._defaults(feature_set)
        for result in results[:_MOST_ENTITIES]:
            counts.entities += 1
            if not result["found"]:
                counts.unknown += 1
                continue
            for name, value in result["features"].items():
                values = counts.features.setdefault(name, [0, 0, 0])
                values[0] += 1
                values[1] += value is None
                values[2] += name in defaults and value == defaults[name]
        if not self._is_due:
            self._is_due = True
            timer = Timer(_FLUSH_S, self._flush_or_warn)
            # A replica that ends must not wait for the timer.
            timer.daemon = True
            timer.start()

    def _keep(
        self, feature_set: str, results: Sequence[Mapping[str, Any]], as_of: datetime | None
    ) -> None:
        known = [result for result in results[:_MOST_ENTITIES] if result["found"]]
        if self._record_time is None or not known or len(self._waiting) >= _MOST_WAITING:
            return
        # Another position each time, so that the sample is not of first entities only.
        result = known[self._calls // _ONE_IN % len(known)]
        time = as_of or self._record_time(feature_set, result["entity_id"])
        if time is not None:
            # Through JSON: what is kept is what the client received.
            values = orjson.loads(encode_json(result["features"]))
            self._waiting.append(ServedResult(feature_set, result["entity_id"], time, values))

    def _flush_or_warn(self) -> None:
        self._is_due = False
        try:
            self.flush()
        except SQLAlchemyError as error:
            get_logger("serving.features").warning(
                "counts of served features are not written: %s", type(error).__name__
            )

    def flush(self) -> None:
        """Write counts and kept results; blocking."""
        # Copies: the event loop counts on while this thread iterates.
        data = {
            name: {
                "entities": counts.entities,
                "unknown": counts.unknown,
                "features": {
                    feature: list(values) for feature, values in list(counts.features.items())
                },
            }
            for name, counts in list(self._sets.items())
        }
        self._database.ensure(ServedFeaturesRow)
        with self._database.session() as session:
            session.merge(ServedFeaturesRow(replica=self._replica, data=data, updated_at=utc_now()))
        waiting, self._waiting = self._waiting, []
        if waiting:
            store_served(self._database, waiting)


@dataclass(frozen=True)
class FeatureRates:
    """Shares of one feature's sampled values, among known entities."""

    feature: str
    null_rate: float
    default_rate: float


@dataclass(frozen=True)
class ServedFeatureRates:
    """Rates of one feature set's sampled results.

    Attributes:
        feature_set: The feature set.
        sampled_entities: Number of entities in the sample.
        unknown_rate: Share of entities that the store does not know.
        features: Rates by feature.
    """

    feature_set: str
    sampled_entities: int
    unknown_rate: float
    features: list[FeatureRates]


def served_feature_rates(database: Database) -> list[ServedFeatureRates]:
    """Rates of each feature set over all replicas."""
    database.ensure(ServedFeaturesRow)
    with database.session() as session:
        replicas = [row.data for row in session.scalars(select(ServedFeaturesRow))]
    merged: dict[str, _FeatureSetCounts] = {}
    for name, data in (item for replica in replicas for item in replica.items()):
        counts = merged.setdefault(name, _FeatureSetCounts())
        counts.entities += data["entities"]
        counts.unknown += data["unknown"]
        for feature, values in data["features"].items():
            previous = counts.features.get(feature, [0, 0, 0])
            counts.features[feature] = [a + b for a, b in zip(previous, values, strict=True)]
    return [
        ServedFeatureRates(
            name,
            counts.entities,
            counts.unknown / counts.entities if counts.entities else 0.0,
            [
                FeatureRates(feature, nulls / total, defaults / total)
                for feature, (total, nulls, defaults) in counts.features.items()
            ],
        )
        for name, counts in sorted(merged.items(), key=lambda item: item[0])
    ]


def render_served_features(database: Database) -> str:
    """The rates as Prometheus text."""
    lines: list[str] = []
    rates = served_feature_rates(database)
    for kind in ("null_rate", "default_rate"):
        name = f"sunloom_feature_served_{kind}"
        samples = [
            f'{name}{{feature_set="{rate.feature_set}",feature="{feature.feature}"}} '
            f"{getattr(feature, kind):.9g}"
            for rate in rates
            for feature in rate.features
        ]
        if samples:
            meaning = f"# HELP {name} Share among sampled answers of known entities."
            lines += [meaning, f"# TYPE {name} gauge", *samples]
    return "\n".join(lines) + "\n" if lines else ""
