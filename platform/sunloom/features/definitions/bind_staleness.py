"""Binding of ``max_staleness``: how old a feature's value may be."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from chalk.utils.duration import CHALK_MAX_TIMEDELTA

from sunloom.features.definitions.scope import event_time_of
from sunloom.features.definitions.source_locations import refuse


def bind_staleness(feature: Any, *, is_read: bool) -> int | None:
    """Microseconds, or None if a value of any age is used.

    Args:
        feature: The chalkpy feature; its own ``max_staleness``, else its class's.
        is_read: Whether its values are read from a source rather than computed.

    Raises:
        DefinitionError: Its values are read, and the class has no event time to tell their age.
    """
    limit = feature.max_staleness
    # chalkpy's default is a limit of 0, which also can be stated.
    is_stated = feature.raw_max_staleness is not ... or limit != timedelta(0)
    if not is_stated or limit >= CHALK_MAX_TIMEDELTA or feature.primary or feature.is_feature_time:
        return None
    if limit < timedelta(0):
        raise refuse(feature, f"max_staleness={limit} is negative", "Write '1h', or 'infinity'.")
    if is_read and event_time_of(feature.features_cls) is None:
        raise refuse(
            feature,
            f"max_staleness={feature.raw_max_staleness!r} needs to know when a value was observed",
            f"Give {feature.features_cls.__name__} a `FeatureTime`, or leave it out.",
        )
    return int(limit // timedelta(microseconds=1))
