"""Streaming job of a recipe: history first, then one consumer here or a group of Ray actors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import polars as pl

from sunloom.config.features import FeaturesRecipe
from sunloom.core.telemetry import get_logger
from sunloom.data.sources.databases import fetch_sources
from sunloom.errors import ConflictError, NotFoundError, UsageError
from sunloom.feature_store.online.registry import store_stream
from sunloom.feature_store.online.tile_layout import TileLayout
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.feature_store.streaming.ingest import TileIngest
from sunloom.feature_store.streaming.kafka import (
    COUNTS,
    ConsumerReport,
    EventCounts,
    Listener,
    StreamConsumer,
    event_policy,
)
from sunloom.feature_store.streaming.partition import ProgressKey, all_progress
from sunloom.features.definitions.open import plan_of_recipe
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.sources.deduplicate import drop_repeats
from sunloom.features.sources.scan import SourceScan, SourceSplit, source_projections

_log = get_logger("features.streaming")
_POLL_S = 1.0
_STOP_TIMEOUT_S = 10
_PLACE, _SPLIT = "__place__", "__split__"


@dataclass(frozen=True, kw_only=True)
class StreamTotals(EventCounts):
    """Counts over all runs and consumers of a stream.

    Attributes:
        offsets: ``topic/partition`` to its next offset.
    """

    offsets: Mapping[str, int | None]


@dataclass(frozen=True, kw_only=True)
class StreamResult(ConsumerReport):
    """What one run of a stream did.

    Attributes:
        events_per_s: Its rate.
        total: What all runs did.
    """

    events_per_s: int
    total: StreamTotals


def prepare_stream(recipe: FeaturesRecipe, store: OnlineStore) -> TileLayout:
    """Check the recipe's streamed classes, and keep the plan in the store.

    Raises:
        ConfigError: The recipe names no streaming source.
        NotFoundError: A topic is given for a class that the feature set does not use.
        UsageError: A class whose events are aggregated has no topic.
    """
    source = recipe.kafka_source()
    plan = plan_of_recipe(recipe).for_online()
    check_streamed(plan, source.topics)
    needs = source_projections(plan)
    streamed = [namespace for namespace in source.topics if namespace in needs]
    return store_stream(store, plan, streamed, source.tile_s, event_policy(source))


def check_streamed(plan: Plan, streamed: Iterable[str]) -> None:
    """Check that every class whose rows are needed is streamed, and no other.

    Raises:
        NotFoundError: A class is not one of those that the feature set reads.
        UsageError: A class is missing.
    """
    needs = source_projections(plan)
    # Classes that only an unavailable feature would read.
    unread = {item.namespace for item in plan.unavailable}
    unread |= {item.namespace for item in plan.classes} if unread else set()
    for namespace in streamed:
        if namespace not in needs and namespace not in unread:
            raise NotFoundError(
                f"Feature set {plan.feature_set!r} reads no rows of {namespace!r}.",
                known=needs,
                name=namespace,
                param="topics",
            )
    for namespace in needs:
        # The set's own features may come from materialized records instead.
        if namespace not in streamed and namespace != plan.namespace:
            raise UsageError(
                f"Feature set {plan.feature_set!r} needs rows of {namespace!r}, and no topic is "
                "given for them.",
                f"Add feature_store.streaming_source.topics.{namespace}.",
                "topics",
            )


def merge_history(recipe: FeaturesRecipe, store: OnlineStore, layout: TileLayout) -> int:
    """Merge the batch source's rows up to ``streaming_source.history``; how many were merged.

    Each split of the source is one transaction with its number: an interrupted start resumes where
    it stopped, and a second one has nothing left to do.

    Raises:
        DataError: A file cannot be read, or lacks a column.
    """
    until, rules = recipe.kafka_source().history, recipe.feature_store.batch_source.deduplicate
    for name in rules.keys() & set(layout.streamed):
        _log.warning("events of the topic of %s are not deduplicated", name)
    if until is None:
        return 0
    paths = recipe.source_paths()
    fetch_sources(recipe.feature_store.batch_source, paths)
    sources = {name: paths[name] for name in layout.streamed if name in paths}
    splits = SourceScan(layout.plan, sources, rules).splits
    merged = sum(
        _merge_splits(store, layout, [split for split in splits if split.source == name], until)
        for name in sources
    )
    if merged:
        _log.info("merged %d rows of history up to %s", merged, until.isoformat())
    return merged


def _merge_splits(
    store: OnlineStore, layout: TileLayout, splits: list[SourceSplit], until: datetime
) -> int:
    if not splits:
        return 0
    namespace = splits[0].source
    key = ProgressKey.for_source(layout, f"history/{namespace}")
    # Lateness has no effect here: without a watermark no tile is closed.
    ingest = TileIngest(store, layout, 0)
    time = layout.plan.class_plan(namespace).time
    merged = 0
    kept: Sequence[pl.Series] | None = None
    # Read again each time: other members of the group merge the same splits.
    while (stored := key.read(store)).progress.next_offset != len(splits):
        number = stored.progress.next_offset or 0
        rows = splits[number].read(layout.plan)
        # The stream drops events up to the same time: none is counted twice.
        events = rows.rows if time is None else rows.rows.filter(pl.col(time) <= until)
        if splits[number].projection.deduplicate is not None:
            kept = kept or _unique_events(splits, layout.plan, until)
            events = events.filter(kept[number])
        progress = stored.progress.advance(
            number + 1, None, events=events.height, quarantined=rows.damaged.height
        )
        guard = key.guarded_write(progress.encode(), stored.raw)
        try:
            # Without a watermark: later splits may hold older events, so every tile stays open.
            ingest.apply(namespace, events, None, guard)
        except ConflictError:
            # Another consumer of the group has merged this split.
            continue
        merged += events.height
    return merged


def _unique_events(
    splits: Sequence[SourceSplit], plan: Plan, until: datetime
) -> Sequence[pl.Series]:
    """Which events of each split up to a time are no repeats.

    What identifies an event is in memory for the whole history, its other columns for one split.
    """
    rule, time = splits[0].projection.deduplicate, plan.class_plan(splits[0].source).time
    assert rule is not None
    parts = []
    for number, split in enumerate(splits):
        rows = split.read(plan).rows
        events = rows if time is None else rows.filter(pl.col(time) <= until)
        names = dict.fromkeys((*rule.by, *((time,) if time else ())))
        place = pl.int_range(pl.len()).alias(_PLACE)
        parts.append(events.select(*names, place, pl.lit(number).alias(_SPLIT)))
    unique = drop_repeats(pl.concat(parts), rule, time)
    return [
        part[_PLACE].is_in(unique.filter(pl.col(_SPLIT) == number)[_PLACE].implode())
        for number, part in enumerate(parts)
    ]


class StreamWorker:
    """One consumer of a recipe's group; plain here, an actor where a cluster runs several.

    Args:
        recipe: The recipe.
    """

    def __init__(self, recipe: FeaturesRecipe) -> None:
        self._store = open_online_store(recipe)
        self.layout = prepare_stream(recipe, self._store)
        # History first: into tiles that a stream has closed, older events go as totals only.
        merge_history(recipe, self._store, self.layout)
        self._consumer = StreamConsumer(recipe, self._store, self.layout)

    def run(self, *, until_end: bool = False, listener: Listener | None = None) -> ConsumerReport:
        """Consume until the end, or until ``stop``."""
        return self._consumer.run(until_end=until_end, listener=listener)

    def stop(self) -> None:
        """Finish the current batch and leave."""
        self._consumer.stop()

    def report(self) -> ConsumerReport:
        """What was done so far."""
        return self._consumer.latest

    def totals(self) -> StreamTotals:
        """Counts over all runs and consumers, as the store has them."""
        progress = all_progress(self._store, self.layout)
        return StreamTotals(
            **_sums(progress.values(), COUNTS),
            offsets={source: partition.next_offset for source, partition in progress.items()},
        )


def stream(
    recipe: FeaturesRecipe,
    *,
    until_end: bool,
    listener: Listener | None = None,
    workers: int = 1,
    on_start: Callable[[Callable[[], None]], None] | None = None,
) -> StreamResult:
    """Consume a recipe's topics.

    Args:
        recipe: The recipe.
        until_end: Whether to leave once the present end of every partition has been read.
        listener: Receives reports about once a second.
        workers: Consumers; more than one are actors on the connected cluster.
        on_start: Receives the function that stops the stream, before it begins.
    """
    if workers > 1:
        return _stream_on_ray(recipe, until_end=until_end, listener=listener, workers=workers)
    worker = StreamWorker(recipe)
    if on_start is not None:
        on_start(worker.stop)
    report = worker.run(until_end=until_end, listener=listener)
    return _stream_result(report, worker.totals())


def _stream_on_ray(
    recipe: FeaturesRecipe, *, until_end: bool, listener: Listener | None, workers: int
) -> StreamResult:
    import ray

    # Two threads: one consumes, the other answers ``report`` and ``stop`` meanwhile.
    actor = ray.remote(num_cpus=1, max_concurrency=2)(StreamWorker)
    group = [actor.remote(recipe) for _ in range(workers)]
    running = [worker.run.remote(until_end=until_end) for worker in group]
    try:
        while True:
            done, waiting = ray.wait(running, num_returns=len(running), timeout=0)
            # Raises what a consumer failed with while the others go on.
            ray.get(done)
            if not waiting:
                break
            if listener is not None:
                listener(merge_reports(ray.get([worker.report.remote() for worker in group])))
            time.sleep(_POLL_S)
        report = merge_reports(ray.get(running))
        return _stream_result(report, ray.get(group[0].totals.remote()))
    finally:
        # Stopped before they are killed: a consumer that leaves its group spares the others the
        # wait for its session to time out.
        for worker in group:
            worker.stop.remote()
        ray.wait(running, num_returns=len(running), timeout=_STOP_TIMEOUT_S)
        for worker in group:
            ray.kill(worker)


def _stream_result(report: ConsumerReport, total: StreamTotals) -> StreamResult:
    rate = report.events / report.seconds if report.seconds else 0.0
    return StreamResult(**asdict(report), events_per_s=round(rate), total=total)


def merge_reports(reports: Sequence[ConsumerReport]) -> ConsumerReport:
    """The report of a group: sums of the counts, and the longest time."""
    counts = _sums(reports, (*COUNTS, "batches", "lag", "partitions"))
    return ConsumerReport(**counts, seconds=max(report.seconds for report in reports))


def _sums(records: Iterable[object], names: Sequence[str]) -> dict[str, int]:
    records = tuple(records)
    return {name: sum(getattr(record, name) for record in records) for name in names}
