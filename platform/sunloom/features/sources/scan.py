"""The scan of a plan: which columns of which files it reads, whole or in splits for workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

import polars as pl

from sunloom.config.data import Deduplication
from sunloom.core.telemetry import get_logger
from sunloom.data.sources.table_files import FileSplit, data_files, require_columns_in, split_file
from sunloom.errors import NotFoundError, UsageError
from sunloom.features.plan.expressions import Aggregate, Lookup, own_columns, walk
from sunloom.features.plan.feature_sets import EVENT_TIME, ClassPlan, JoinPlan, Plan
from sunloom.features.plan.polars_dtypes import is_scalar
from sunloom.features.sources.deduplicate import count_repeats, drop_repeats
from sunloom.features.sources.typed_rows import (
    TypedRows,
    add_missing_columns,
    conform,
    read_source,
    read_source_file,
    with_event_id,
)

SPLIT_ROWS = 500_000
# Text takes more room as columns than as a file.
_TEXT_GROWTH = 2

_log = get_logger("features.sources")


@dataclass(frozen=True)
class SourceProjection:
    """What a plan reads of one class's source.

    Attributes:
        columns: Features to read, key and event time included where they are used.
        partition_by: Columns equal to the entity's key, or None where every partition needs all
            rows.
        event_id: The column whose repeats are counted where a file has it; None where the rows are
            states of entities, whose keys repeat, or are deduplicated.
        deduplicate: Which repeats are left out, if any are.
        read_columns: ``columns``, and those that only the deduplication needs.
    """

    columns: tuple[str, ...]
    partition_by: tuple[str, ...] | None
    event_id: str | None
    deduplicate: Deduplication | None
    read_columns: tuple[str, ...]


def source_projections(
    plan: Plan, deduplicate: Mapping[str, Deduplication] | None = None
) -> Mapping[str, SourceProjection]:
    """Namespace to the projection of its source; classes that are only computed are absent.

    Args:
        plan: What is computed.
        deduplicate: Namespace to the rule of a source's repeats.

    Raises:
        NotFoundError: A rule names no feature of its class.
        UsageError: A rule names a feature that is computed, or has no single value.
    """
    rules = deduplicate or {}
    collector = _ProjectionCollector(plan)
    for name in plan.outputs:
        collector.visit(plan.root, name)
    projections = {}
    for namespace, names in collector.columns.items():
        item, rule = plan.class_plan(namespace), rules.get(namespace)
        needed = names if rule is None else names | _deduplication_columns(item, rule)
        is_counted = rule is None and namespace in collector.events - collector.states
        projections[namespace] = SourceProjection(
            columns=tuple(f.name for f in item.features if f.name in names),
            partition_by=collector.partition_by[namespace],
            event_id=item.key if is_counted else None,
            deduplicate=rule,
            read_columns=tuple(f.name for f in item.features if f.name in needed),
        )
    return projections


def _deduplication_columns(item: ClassPlan, rule: Deduplication) -> set[str]:
    for name in rule.by:
        feature = item.feature(name)
        if feature.expression is not None or not is_scalar(feature.dtype):
            raise UsageError(
                f"Rows of {item.namespace!r} cannot be deduplicated by {name!r}, which is no "
                "single value of the source.",
                "Name columns of the source, such as the event's id.",
                f"deduplicate.{item.namespace}.by",
            )
    return {*rule.by} | _time_of(item)


class _ProjectionCollector:
    """Follows features down to the columns that are read, and by which keys each source is read."""

    def __init__(self, plan: Plan) -> None:
        self.columns: dict[str, set[str]] = {}
        self.partition_by: dict[str, tuple[str, ...] | None] = {}
        # Namespaces whose rows are aggregated, and those of which one row is looked up.
        self.events: set[str] = set()
        self.states: set[str] = set()
        self._plan = plan
        self._seen: set[tuple[str, str]] = set()

    def visit(self, item: ClassPlan, name: str) -> None:
        """Collect what one feature of a class needs."""
        if (item.namespace, name) in self._seen:
            return
        self._seen.add((item.namespace, name))
        expression = item.feature(name).expression
        if expression is None:
            # The entity's own key is given by the spine.
            if name != item.key or not self._is_root(item):
                names = {item.key, name} | _time_of(item)
                self.states.add(item.namespace)
                self._read(item, names, (item.key,), by_entity=self._is_root(item))
            return
        # Expressions are followed to their sources: computed features are columns of none.
        for column in own_columns(expression):
            self.visit(item, column)
        for node in walk(expression):
            if isinstance(node, Aggregate):
                self._visit_aggregate(item, node)
            elif isinstance(node, Lookup):
                self._visit_lookup(item, node)

    def _visit_aggregate(self, item: ClassPlan, node: Aggregate) -> None:
        join = item.join(node.join)
        self._visit_own_keys(item, join)
        target = self._plan.class_plan(join.target)
        names = set(join.target_keys).union(*(own_columns(part) for part in node.parts))
        # The source columns behind features that are computed from their own row.
        columns = {f.name for f in target.row_features(names) if f.expression is None}
        if node.window.column is not None:
            columns.add(node.window.column)
        by_entity = self._is_root(item) and join.own_keys == (item.key,)
        # Rows that are joined by their own key have it as often as there are events of it.
        (self.states if target.key in join.target_keys else self.events).add(target.namespace)
        self._read(target, columns, join.target_keys, by_entity=by_entity)

    def _visit_lookup(self, item: ClassPlan, node: Lookup) -> None:
        join = item.join(node.join)
        self._visit_own_keys(item, join)
        target = self._plan.class_plan(join.target)
        if join.target_keys != (target.key,):
            # The latest row by other columns decides the key that the feature is then read by.
            names = {*join.target_keys, target.key} | _time_of(target)
            self.states.add(target.namespace)
            self._read(target, names, join.target_keys, by_entity=False)
        self.visit(target, node.feature)

    def _visit_own_keys(self, item: ClassPlan, join: JoinPlan) -> None:
        for name in join.own_keys:
            if name != item.key:
                self.visit(item, name)

    def _is_root(self, item: ClassPlan) -> bool:
        return item.namespace == self._plan.namespace

    def _read(
        self, item: ClassPlan, names: Iterable[str], keys: tuple[str, ...], *, by_entity: bool
    ) -> None:
        self.columns.setdefault(item.namespace, set()).update(names)
        partition_by = keys if by_entity else None
        # One read that is not by the entity's key, or by other columns, needs all rows everywhere.
        if self.partition_by.setdefault(item.namespace, partition_by) != partition_by:
            self.partition_by[item.namespace] = None


def _time_of(item: ClassPlan) -> set[str]:
    return {item.time} if item.time else set()


@dataclass(frozen=True)
class SourceSplit:
    """What one worker reads of a class's source.

    Attributes:
        source: Namespace of the class.
        projection: Its columns, and how its rows are partitioned.
        rows: The part of a file.
    """

    source: str
    projection: SourceProjection
    rows: FileSplit

    @property
    def size_bytes(self) -> int:
        """Bytes of the split's columns in memory, about."""
        is_text = not self.rows.row_groups and not self.rows.file.endswith(".parquet")
        return self.rows.size_bytes * (_TEXT_GROWTH if is_text else 1)

    def read(self, plan: Plan) -> TypedRows:
        """The rows in declared types."""
        item, names = plan.class_plan(self.source), self.projection.read_columns
        event_id = self.projection.event_id
        # Only Parquet is split: other files have no row groups, and are read whole.
        if not self.rows.row_groups:
            return read_source_file(item, names, Path(self.rows.file), event_id=event_id)
        rows = self.rows.read_parquet(with_event_id(names, event_id))
        frame = add_missing_columns(rows, names, self.rows.file)
        # Positions count within the file, from 1, whichever worker reads the split.
        first = self.rows.first_row + 1
        positions = pl.int_range(first, first + frame.height, dtype=pl.Int64, eager=True)
        return conform(frame, item, names, self.rows.file, positions, event_id=event_id)


@dataclass(frozen=True)
class SourceTable:
    """A source as the engine takes it.

    Attributes:
        rows: Its rows without repeats that are left out.
        damaged: ``source``, ``position``, ``reason`` and ``content`` of each unreadable row.
        rows_read: All that were read, damaged and repeated ones included.
        repeated_ids: Rows with the id of an earlier event, where repeats are counted.
        deduplicated: Repeats that are left out.
    """

    rows: pl.DataFrame
    damaged: pl.DataFrame
    rows_read: int
    repeated_ids: int
    deduplicated: int


@dataclass(frozen=True)
class SourceScan:
    """What a plan reads from its sources, derived once for all steps of a computation.

    Attributes:
        plan: What is computed.
        paths: Namespace to the file or folder with its rows.
        deduplicate: Namespace to the rule of its source's repeats.
    """

    plan: Plan
    paths: Mapping[str, Path]
    deduplicate: Mapping[str, Deduplication] = field(default_factory=dict)

    @cached_property
    def projections(self) -> Mapping[str, SourceProjection]:
        """Namespace to the columns that are read, of the classes that have a source."""
        return {n: p for n, p in self.required_projections.items() if n in self.paths}

    @cached_property
    def splits(self) -> tuple[SourceSplit, ...]:
        """Everything that is read, in order of insertion.

        Raises:
            DataError: No file of a source has a column.
        """
        for name, projection in self.projections.items():
            require_columns_in(self.paths[name], projection.read_columns)
        return tuple(
            SourceSplit(name, projection, rows)
            for name, projection in self.projections.items()
            for file in data_files(self.paths[name])
            for rows in split_file(file, projection.read_columns, SPLIT_ROWS)
        )

    @property
    def size_bytes(self) -> int:
        """Bytes of all splits in memory, about."""
        return sum(split.size_bytes for split in self.splits)

    def read(self, until: datetime | None = None) -> dict[str, SourceTable]:
        """The rows of every source, by namespace.

        Args:
            until: Leave out events after this time; all are read without it.
        """
        return {
            name: self._read(name, projection, until)
            for name, projection in self.projections.items()
        }

    def _read(self, name: str, projection: SourceProjection, until: datetime | None) -> SourceTable:
        item = self.plan.class_plan(name)
        source = read_source(
            item, projection.read_columns, self.paths[name], event_id=projection.event_id
        )
        rows, repeated, dropped = source.rows, 0, 0
        if until is not None and item.time is not None:
            rows = rows.filter(pl.col(item.time) <= until)
        if source.id_numbers is not None:
            repeated = count_repeats([source.id_numbers])
        if projection.deduplicate is not None:
            unique = drop_repeats(rows, projection.deduplicate, item.time)
            dropped = rows.height - unique.height
            rows = unique.select(projection.columns)
        return SourceTable(
            rows=rows,
            damaged=source.damaged,
            rows_read=source.rows.height + source.damaged.height,
            repeated_ids=repeated,
            deduplicated=dropped,
        )

    @cached_property
    def required_projections(self) -> Mapping[str, SourceProjection]:
        """Namespace to the columns that are read, of all classes; some may have no source."""
        return source_projections(self.plan, self.deduplicate)


def open_scan(
    plan: Plan,
    paths: Mapping[str, Path],
    deduplicate: Mapping[str, Deduplication] | None = None,
) -> SourceScan:
    """The scan of a plan, its sources checked.

    Args:
        plan: What is computed.
        paths: Namespace to the file or folder with its rows.
        deduplicate: Namespace to the rule of its source's repeats.

    Raises:
        NotFoundError: A source names no class of the plan's definitions, or a rule no source or
            no feature of its class.
        UsageError: Rows that an aggregate or a join needs have no source.
    """
    scan = SourceScan(plan, paths, deduplicate or {})
    for namespace in scan.deduplicate:
        if namespace not in paths:
            raise NotFoundError(
                f"deduplicate names {namespace!r}, which has no source.",
                known=list(paths),
                name=namespace,
                param="deduplicate",
            )
    for namespace in scan.required_projections:
        if namespace in paths:
            continue
        if namespace != plan.namespace:
            raise UsageError(
                f"Feature set {plan.feature_set!r} needs rows of {namespace!r}, and no source is "
                "given for them.",
                f"Add --source {namespace}=PATH, or in a recipe "
                f"feature_store.batch_source.tables.{namespace}. "
                f"Given: {', '.join(paths) or 'none'}.",
                "source",
            )
        # The root's own features may be null, or come with the query.
        _log.warning("no source for %s: its own features are null", namespace)
    known = [item.namespace for item in plan.classes]
    # Classes that only an unavailable feature would read.
    unread = {item.namespace for item in plan.unavailable}
    for namespace in paths:
        if namespace not in known and namespace not in unread:
            raise NotFoundError(
                f"Source {namespace!r} belongs to no class that {plan.feature_set!r} uses.",
                known=known,
                name=namespace,
                param="source",
            )
    return scan


def known_entities(scan: SourceScan, as_of: datetime) -> pl.DataFrame:
    """Every key in a source row of that time or before, sorted, once each.

    Keys come from the feature set's own source and from sources that it joins by its key.

    Args:
        scan: The feature set and its sources.
        as_of: With a time zone.

    Returns:
        The key under its name, and ``event_time``: the as-of time.

    Raises:
        UsageError: No source has the key.
    """
    root = scan.plan.root
    key_columns = [(root.namespace, root.key)]
    key_columns += [
        (join.target, join.target_keys[0]) for join in root.joins if join.own_keys == (root.key,)
    ]
    keys = [
        _source_keys(scan, namespace, column, as_of).rename({column: root.key})
        for namespace, column in key_columns
        if namespace in scan.paths
    ]
    if not keys:
        raise UsageError(
            f"No source of {scan.plan.feature_set!r} has its key {root.key!r}.",
            "Name a file with the entities' keys in online.entities.",
            "online.entities",
        )
    event_time = pl.lit(as_of).cast(pl.Datetime("us", "UTC")).alias(EVENT_TIME)
    # Sorted, because ``unique`` gives no stable order and a materialization is repeatable.
    return pl.concat(keys).drop_nulls().unique().sort(root.key).with_columns(event_time)


def _source_keys(scan: SourceScan, namespace: str, column: str, as_of: datetime) -> pl.DataFrame:
    item = scan.plan.class_plan(namespace)
    names = [column] if item.time is None else list(dict.fromkeys((column, item.time)))
    rows = read_source(item, names, scan.paths[namespace]).rows
    if item.time is not None:
        # An entity whose first row is later was not known at the as-of time.
        rows = rows.filter(pl.col(item.time) <= as_of)
    # Within each source first: its rows may be many times the keys that are concatenated.
    return rows.select(column).unique()
