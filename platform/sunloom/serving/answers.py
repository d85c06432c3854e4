"""What feature reads answered: unknown entities, nulls and defaults, from a sample of the reads."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from threading import Thread
from typing import Any

from sqlalchemy import JSON, String, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapped, mapped_column

from sunloom.core.database import Base, Database, UtcDateTime, now
from sunloom.core.telemetry import get_logger
from sunloom.features.plan import Plan
from sunloom.features.store import OnlineStore

_ONE_IN = 8
_MOST_ENTITIES = 50
_FLUSH_S = 15.0

Defaults = Callable[[str], Mapping[str, Any]]
"""Gives a feature set's defaults by feature."""


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
        (packed,) = self._store.get_many("plan", [feature_set.encode()])
        held = self._held.get(feature_set)
        if held is None or held[0] != packed:
            held = self._held[feature_set] = (packed, _defaults(packed))
        return held[1]


def _defaults(packed: bytes | None) -> Mapping[str, Any]:
    if packed is None:
        return {}
    features = Plan.model_validate_json(packed).root.features
    return {one.name: one.default.value for one in features if one.default is not None}


class Answers:
    """Counts a sample of a replica's answers and writes them down now and then.

    Args:
        database: Where the replicas' counts meet.
        defaults: What a feature has where nothing is known.
    """

    def __init__(self, database: Database, defaults: Defaults) -> None:
        self._database = database
        self._defaults = defaults
        self._replica = secrets.token_hex(8)
        self._sets: dict[str, _Set] = {}
        self._calls = 0
        self._written = time.monotonic()

    def observe(self, feature_set: str, results: Iterable[Mapping[str, Any]]) -> None:
        """Look at one answer in eight; costs next to nothing on the others."""
        self._calls += 1
        if self._calls % _ONE_IN != 1:
            return
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
        if time.monotonic() - self._written > _FLUSH_S:
            self._written = time.monotonic()
            Thread(target=self._flush_or_warn, daemon=True).start()

    def _flush_or_warn(self) -> None:
        try:
            self.flush()
        except SQLAlchemyError as error:
            get_logger("answers").warning("counts are not written: %s", type(error).__name__)

    def flush(self) -> None:
        """Write the counts; blocking."""
        data = {
            name: {"entities": one.entities, "unknown": one.unknown, "features": one.features}
            for name, one in list(self._sets.items())
        }
        self._database.ensure(AnswersRow)
        with self._database.session() as session:
            session.merge(AnswersRow(replica=self._replica, data=data, updated_at=now()))


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
