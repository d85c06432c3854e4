"""A recipe's stream: one consumer here, or a group of Ray actors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from sunloom.config.features.materialization import FeaturesRecipe
from sunloom.errors import NotFoundError, UsageError
from sunloom.feature_store.online.registry import store_stream
from sunloom.feature_store.online.tiles.index import TileLayout
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.feature_store.stores.online.protocol import OnlineStore
from sunloom.feature_store.streaming.bootstrap import merge_history
from sunloom.feature_store.streaming.consumer import ConsumerReport, StreamConsumer, policy_of
from sunloom.feature_store.streaming.offsets import all_progress
from sunloom.features.definitions.open import plan_of
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.plan.projection import source_projections

_POLL_S = 1.0


def prepare_stream(recipe: FeaturesRecipe, store: OnlineStore) -> TileLayout:
    """Check what the recipe wants to stream, and keep its plan in the store.

    Raises:
        ConfigError: The recipe names no streaming source.
        NotFoundError: A topic is given for a class that the feature set does not use.
        UsageError: A class whose events are aggregated has no topic.
    """
    source = recipe.kafka_source()
    plan = plan_of(recipe.definitions, recipe.feature_set).for_online()
    check_streamed(plan, source.topics)
    return store_stream(store, plan, source.topics, source.tile_s, policy_of(source))


def check_streamed(plan: Plan, streamed: Iterable[str]) -> None:
    """Check that every class whose rows are needed comes by the stream, and no other.

    Raises:
        NotFoundError: A class is not one of those that the feature set reads.
        UsageError: A class is missing.
    """
    needs = source_projections(plan)
    for namespace in streamed:
        if namespace not in needs:
            raise NotFoundError(
                f"Feature set {plan.feature_set!r} reads no rows of {namespace!r}.",
                known=needs,
                name=namespace,
                param="topics",
            )
    for namespace in needs:
        if namespace not in streamed and namespace != plan.namespace:
            raise UsageError(
                f"Feature set {plan.feature_set!r} needs rows of {namespace!r}, and no topic is "
                "given for them.",
                f"Add feature_store.streaming_source.topics.{namespace}.",
                "topics",
            )


class StreamWorker:
    """One consumer of a recipe's group; plain here, an actor where a cluster runs several.

    Args:
        recipe: The recipe.
    """

    def __init__(self, recipe: FeaturesRecipe) -> None:
        self._store = open_online_store(recipe)
        self._latest = ConsumerReport()
        self.layout = prepare_stream(recipe, self._store)
        merge_history(recipe, self._store, self.layout)
        self._consumer = StreamConsumer(recipe, self._store, self.layout, self._keep)
        self._listener: Callable[[ConsumerReport], None] | None = None

    def run(
        self, *, until_end: bool = False, listener: Callable[[ConsumerReport], None] | None = None
    ) -> ConsumerReport:
        """Consume until the end, or until ``stop``."""
        self._listener = listener
        self._latest = self._consumer.run(until_end=until_end)
        return self._latest

    def stop(self) -> None:
        """Finish the batch at hand and leave."""
        self._consumer.stop()

    def report(self) -> ConsumerReport:
        """What was done so far."""
        return self._latest

    def totals(self) -> dict[str, Any]:
        """Counts over all runs and consumers, as the store has them."""
        return totals(self._store, self.layout)

    def _keep(self, report: ConsumerReport) -> None:
        self._latest = report
        if self._listener is not None:
            self._listener(report)


def totals(store: OnlineStore, layout: TileLayout) -> dict[str, Any]:
    """Counts over all runs and consumers, and each partition's next offset."""
    found = all_progress(store, layout)
    names = ("events", "late", "dropped", "quarantined")
    counts = {name: sum(getattr(one, name) for one in found.values()) for name in names}
    return {**counts, "offsets": {source: one.next_offset for source, one in found.items()}}


def stream(
    recipe: FeaturesRecipe,
    *,
    until_end: bool,
    listener: Callable[[ConsumerReport], None] | None = None,
    workers: int = 1,
    on_start: Callable[[Callable[[], None]], None] | None = None,
) -> dict[str, Any]:
    """Consume a recipe's topics.

    Args:
        recipe: The recipe.
        until_end: Whether to leave once everything that is there has been read.
        listener: Receives reports about once a second.
        workers: Consumers; more than one are actors on the connected cluster.
        on_start: Receives what stops the stream, before it begins.

    Returns:
        What this run did, and under ``total`` what all runs did.
    """
    if workers > 1:
        return _stream_on_ray(recipe, until_end=until_end, listener=listener, workers=workers)
    worker = StreamWorker(recipe)
    if on_start is not None:
        on_start(worker.stop)
    report = worker.run(until_end=until_end, listener=listener)
    return summary(report) | {"total": worker.totals()}


def summary(report: ConsumerReport) -> dict[str, Any]:
    """A report with its rate."""
    rate = report.events / report.seconds if report.seconds else 0.0
    return asdict(report) | {"events_per_s": round(rate)}


def _stream_on_ray(
    recipe: FeaturesRecipe,
    *,
    until_end: bool,
    listener: Callable[[ConsumerReport], None] | None,
    workers: int,
) -> dict[str, Any]:
    import ray

    # Two threads: one consumes, the other answers.
    actor = ray.remote(num_cpus=1, max_concurrency=2)(StreamWorker)
    group = [actor.remote(recipe) for _ in range(workers)]
    running = [one.run.remote(until_end=until_end) for one in group]
    try:
        while not _is_done(running):
            if listener is not None:
                listener(_together(ray.get([one.report.remote() for one in group])))
            time.sleep(_POLL_S)
        report = _together(ray.get(running))
        return summary(report) | {"total": ray.get(group[0].totals.remote())}
    finally:
        for one in group:
            one.stop.remote()
        ray.wait(running, num_returns=len(running), timeout=10)
        for one in group:
            ray.kill(one)


def _is_done(running: list[Any]) -> bool:
    import ray

    done, waiting = ray.wait(running, num_returns=len(running), timeout=0)
    ray.get(done)
    return not waiting


def _together(reports: Iterable[ConsumerReport]) -> ConsumerReport:
    found = list(reports)
    names = ("events", "late", "dropped", "quarantined", "batches", "lag", "partitions")
    counts = {name: sum(getattr(one, name) for one in found) for name in names}
    return ConsumerReport(**counts, seconds=max(one.seconds for one in found))
