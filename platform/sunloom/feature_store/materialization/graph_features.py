"""Features of a graph's nodes, from a file of edges into Parquet and the online store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel

from sunloom.config.preprocessing.graph import GraphConfig, GraphRecipe
from sunloom.core.files import atomic_path
from sunloom.core.telemetry import progress_bar
from sunloom.data.sources.table_files import data_files
from sunloom.errors import ArtifactError, ConfigError, ConflictError, UsageError
from sunloom.feature_store.stores.online.key_value import PLANS, STREAMS
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.features.plan.feature_sets import EVENT_TIME
from sunloom.preprocessing.graph.edges import Graph, graph_of, read_edges, read_nodes
from sunloom.preprocessing.graph.node_features import (
    graph_embedding,
    graph_features,
    neighbour_features,
)


class GraphResult(BaseModel, frozen=True):
    """What was computed of a graph and where it was written; what does not apply is unset.

    Attributes:
        nodes: Nodes of the graph.
        edges: Rows of edges.
        repeated_edges: Rows among them with the ends of an earlier one.
        self_loops: Rows among them that lead from a node to itself.
        features: Names of the features.
        out: The Parquet file.
        feature_set: The feature set in the online store.
        records: Records that were written to it; one of a later event time stays.
    """

    nodes: int
    edges: int
    repeated_edges: int
    self_loops: int
    features: Sequence[str]
    out: str | None = None
    feature_set: str | None = None
    records: int | None = None


def materialize_graph(recipe: GraphRecipe) -> GraphResult:
    """Compute the recipe's features of a graph's nodes and write them.

    Args:
        recipe: Edges, features, results; the online store.

    Raises:
        ConfigError: No edges or no result is named.
        UsageError: A file is not there, or the output cannot be one.
        DataError: The rows are not what was declared; nothing is written.
        ConflictError: The feature set is made from definitions.
        ArtifactError: The output cannot be written.
    """
    graph = recipe.graph
    _require_targets(graph)
    store = None
    if graph.feature_set is not None:
        store = open_online_store(recipe)
        _require_free_name(store, graph.feature_set)
    edges = read_edges(graph)
    table = node_table(graph, edges)
    written: dict[str, Any] = {}
    if graph.out is not None:
        _write_table(table, graph.out)
        written["out"] = str(graph.out)
    if store is not None and graph.feature_set is not None:
        written["feature_set"] = graph.feature_set
        written["records"] = store.write(
            graph.feature_set, _with_event_time(table), key=graph.key, time=EVENT_TIME
        )
    ends = [pl.col(graph.source), pl.col(graph.target)]
    if not graph.directed:
        # An undirected edge is the same from either end.
        ends = [pl.min_horizontal(ends), pl.max_horizontal(ends).alias("high")]
    return GraphResult(
        nodes=table.height,
        edges=edges.height,
        repeated_edges=edges.height - edges.select(ends).n_unique(),
        self_loops=int((edges[graph.source] == edges[graph.target]).sum()),
        features=[name for name in table.columns if name not in (graph.key, EVENT_TIME)],
        **written,
    )


def node_table(config: GraphConfig, edges: pl.DataFrame) -> pl.DataFrame:
    """One row a node: its key, ``event_time`` where there is ``as_of``, and its features.

    Args:
        config: Edges, nodes and features.
        edges: The edges that exist at ``as_of``.

    Raises:
        DataError: The rows are not what was declared.
    """
    key = config.key
    nodes = config.nodes
    values = None if nodes is None else read_nodes(nodes, key, config.as_of)
    graph = graph_of(
        edges,
        config.source,
        config.target,
        config.weight,
        directed=config.directed,
        nodes=None if values is None else values[key],
    )
    parts = list(_parts(config, graph, values))
    columns = [pl.DataFrame({key: graph.nodes})]
    if config.as_of is not None:
        event_time = pl.repeat(config.as_of.astimezone(UTC), graph.size, eager=True)
        columns.append(pl.DataFrame({EVENT_TIME: event_time.cast(pl.Datetime("us", "UTC"))}))
    with progress_bar("graph", len(parts)) as bar:
        for name, compute in parts:
            columns.append(compute().drop(key))
            bar.note(name)
            bar.advance()
    return pl.concat(columns, how="horizontal")


def _parts(
    config: GraphConfig, graph: Graph, values: pl.DataFrame | None
) -> Iterator[tuple[str, Callable[[], pl.DataFrame]]]:
    key, walk = config.key, config.pagerank
    if config.features:
        yield (
            "features",
            lambda: graph_features(
                graph,
                config.features,
                key=key,
                damping=walk.damping,
                tolerance=walk.tol,
                most=walk.max_iter,
            ),
        )
    if (nodes := config.nodes) is not None and values is not None:
        yield (
            "neighbours",
            lambda: neighbour_features(
                graph, values, nodes.aggregations, key=key, direction=nodes.direction
            ),
        )
    if (embedding := config.embedding) is not None:
        yield "embedding", lambda: graph_embedding(graph, embedding.dimensions, key=key)


def _require_targets(graph: GraphConfig) -> None:
    if not graph.edge_files():
        raise ConfigError("graph.edges is missing.", "Name a file of edges.", "graph.edges")
    if graph.out is None and graph.feature_set is None:
        raise ConfigError(
            "Neither graph.out nor graph.feature_set is there: nothing would be written.",
            "Name a Parquet file or a feature set.",
            "graph.out",
        )
    if graph.out is None:
        return
    if graph.out.suffix != ".parquet":
        raise UsageError(f"{graph.out} does not end in .parquet.", "Rows are Parquet.", "graph.out")
    inputs = [*graph.edge_files(), *([graph.nodes.table] if graph.nodes else [])]
    if graph.out.absolute() in {file.absolute() for path in inputs for file in data_files(path)}:
        raise UsageError(f"{graph.out} is an input itself.", "Name another file.", "graph.out")


def _require_free_name(store: OnlineStore, feature_set: str) -> None:
    name = feature_set.encode()
    if any(store.get_many(space, [name])[0] is not None for space in (PLANS, STREAMS)):
        raise ConflictError(
            f"The feature set {feature_set!r} is made from definitions.",
            "Choose another name for the nodes' features.",
            "graph.feature_set",
        )


def _write_table(table: pl.DataFrame, out: Path) -> None:
    try:
        with atomic_path(out) as partial:
            table.write_parquet(partial)
    except OSError as error:
        raise ArtifactError(
            f"{out} cannot be written: {error}", "An earlier file is whole. Run again."
        ) from error


def _with_event_time(table: pl.DataFrame) -> pl.DataFrame:
    if EVENT_TIME in table.columns:
        return table
    now = pl.lit(datetime.now(UTC)).cast(pl.Datetime("us", "UTC"))
    return table.with_columns(now.alias(EVENT_TIME))
