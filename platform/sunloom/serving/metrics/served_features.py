"""What feature reads answered, from a sample: unknown entities, nulls, defaults, and answers whole.

The whole answers are replayed offline: ``sunloom features skew --served``.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from threading import Timer
from typing import Any

from sqlalchemy import JSON, String, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.core.database import Base, Database, UtcDateTime, utc_now
from sunloom.core.telemetry import get_logger
from sunloom.feature_store.stores.online.protocol import OnlineStore
from sunloom.feature_store.stores.online.spaces import PLANS
from sunloom.features.plan.feature_sets import Plan
from sunloom.monitoring.served_answers import Served, keep_served
from sunloom.serving.asgi.bodies import encode, parse_object

_ONE_IN = 8
_MOST_ENTITIES = 50
_FLUSH_S = 5.0

_MOST_WAITING = 500

Defaults = Callable[[str], Mapping[str, Any]]
"""Gives a feature set's defaults by feature."""
RecordTime = Callable[[str, Any], datetime | None]
"""Gives the moment as of which an entity's stored record holds."""


class AnswersRow(Base):
    """The counts of one replica since it started."""

    __tablename__ = "serving_answers"

    replica: Mapped[str] = mapped_column(String(80), primary_key=True)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


@dataclass
class _Set:
    entities: int = 0
    unknown: int = 0
    # Feature to answers, nulls and defaults among known entities.
    features: dict[str, list[int]] = field(default_factory=dict)


class StoredDefaults:
    """Defaults of the features of a store's sets, from the plans that lie beside them.

    Args:
        store: The store.
    """

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self._held: dict[str, tuple[bytes | None, Mapping[str, Any]]] = {}

    def __call__(self, feature_set: str) -> Mapping[str, Any]:
        """Feature to default; empty where no plan is stored."""
        (packed,) = self._store.get_many(PLANS, [feature_set.encode()])
        held = self._held.get(feature_set)
        if held is None or held[0] != packed:
            held = self._held[feature_set] = (packed, _defaults(packed))
        return held[1]


def _defaults(packed: bytes | None) -> Mapping[str, Any]:
    if packed is None:
        return {}
    features = Plan.model_validate_json(packed).root.features
    return {one.name: one.default.value for one in features if one.default is not None}


class ServedFeatureSampler:
    """Counts a sample of a replica's answers and writes them down now and then.

    Args:
        database: Where the replicas' counts meet.
        defaults: What a feature has where nothing is known.
        record_time: When given, one entity of each sampled answer is kept with its moment.
    """

    def __init__(
        self, database: Database, defaults: Defaults, record_time: RecordTime | None = None
    ) -> None:
        self._database = database
        self._defaults = defaults
        self._record_time = record_time
        self._waiting: list[Served] = []
        self._replica = secrets.token_hex(8)
        self._sets: dict[str, _Set] = {}
        self._calls = 0
        self._is_due = False

    def observe(
        self,
        feature_set: str,
        results: Sequence[Mapping[str, Any]],
        moment: datetime | None = None,
    ) -> None:
        """Look at one answer in eight; costs next to nothing on the others.

        Args:
            feature_set: What was read.
            results: One entry an entity.
            moment: As of when; None where stored records were answered as they are.
        """
        self._calls += 1
        if self._calls % _ONE_IN != 1:
            return
        self._keep(feature_set, results, moment)
        held = self._sets.setdefault(feature_set, _Set())
        defaults = self._defaults(feature_set)
        for number, result in enumerate(results):
            if number == _MOST_ENTITIES:
                break
            held.entities += 1
            if not result["found"]:
                held.unknown += 1
                continue
            for name, value in result["features"].items():
                counts = held.features.setdefault(name, [0, 0, 0])
                counts[0] += 1
                counts[1] += value is None
                counts[2] += name in defaults and value == defaults[name]
        if not self._is_due:
            self._is_due = True
            timer = Timer(_FLUSH_S, self._flush_or_warn)
            timer.daemon = True
            timer.start()

    def _keep(
        self, feature_set: str, results: Sequence[Mapping[str, Any]], moment: datetime | None
    ) -> None:
        known = [result for result in results[:_MOST_ENTITIES] if result["found"]]
        if self._record_time is None or not known or len(self._waiting) >= _MOST_WAITING:
            return
        one = known[self._calls // _ONE_IN % len(known)]
        at = moment or self._record_time(feature_set, one["entity_id"])
        if at is not None:
            values = parse_object(encode(one["features"]))
            self._waiting.append(Served(feature_set, one["entity_id"], at, values))

    def _flush_or_warn(self) -> None:
        self._is_due = False
        try:
            self.flush()
        except SQLAlchemyError as error:
            get_logger("answers").warning("counts are not written: %s", type(error).__name__)

    def flush(self) -> None:
        """Write counts and kept answers; blocking."""
        data = {
            name: {
                "entities": one.entities,
                "unknown": one.unknown,
                "features": {feature: list(n) for feature, n in list(one.features.items())},
            }
            for name, one in list(self._sets.items())
        }
        self._database.ensure(AnswersRow)
        with self._database.session() as session:
            session.merge(AnswersRow(replica=self._replica, data=data, updated_at=utc_now()))
        waiting, self._waiting = self._waiting, []
        if waiting:
            keep_served(self._database, waiting)


def answer_rates(database: Database) -> list[dict[str, Any]]:
    """Share of unknown entities, and of nulls and defaults by feature, over all replicas."""
    database.ensure(AnswersRow)
    with database.session() as session:
        parts = [row.data for row in session.scalars(select(AnswersRow))]
    sets: dict[str, _Set] = {}
    for name, part in (item for data in parts for item in data.items()):
        held = sets.setdefault(name, _Set())
        held.entities += part["entities"]
        held.unknown += part["unknown"]
        for feature, counts in part["features"].items():
            known = held.features.get(feature, [0, 0, 0])
            held.features[feature] = [a + b for a, b in zip(known, counts, strict=True)]
    return [
        {
            "feature_set": name,
            "sampled_entities": held.entities,
            "unknown_rate": held.unknown / held.entities if held.entities else 0.0,
            "features": [
                {"feature": feature, "null_rate": nulls / all_, "default_rate": defaults / all_}
                for feature, (all_, nulls, defaults) in held.features.items()
            ],
        }
        for name, held in sorted(sets.items())
    ]


def render_answers(database: Database) -> str:
    """The rates as Prometheus text."""
    lines: list[str] = []
    rates = answer_rates(database)
    for kind in ("null_rate", "default_rate"):
        name = f"sunloom_feature_served_{kind}"
        samples = [
            f'{name}{{feature_set="{one["feature_set"]}",feature="{feature["feature"]}"}} '
            f"{feature[kind]:.9g}"
            for one in rates
            for feature in one["features"]
        ]
        if samples:
            meaning = f"# HELP {name} Share among sampled answers of known entities."
            lines += [meaning, f"# TYPE {name} gauge", *samples]
    return "\n".join(lines) + "\n" if lines else ""
