"""Features of nodes from a file of edges into Parquet and the online store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from sunloom.config.preprocessing.graph import GraphConfig, GraphRecipe
from sunloom.config.settings import Settings
from sunloom.core.files import atomic_path
from sunloom.core.telemetry import progress_bar
from sunloom.data.sources.table_files import data_files
from sunloom.errors import ArtifactError, ConfigError, ConflictError, UsageError
from sunloom.features.plan.columns import EVENT_TIME
from sunloom.preprocessing.graph.adjacency import Graph, graph_of
from sunloom.preprocessing.graph.edges import read_edges, read_nodes
from sunloom.preprocessing.graph.embedding import graph_embedding
from sunloom.preprocessing.graph.neighbours import neighbour_features
from sunloom.preprocessing.graph.node_features import graph_features


def graph_file(recipe: GraphRecipe) -> dict[str, Any]:
    """Compute what the recipe wants of a graph's nodes and write it.

    Args:
        recipe: Edges, features, results; the online store.

    Returns:
        ``nodes``, ``edges`` (rows seen), ``repeated_edges`` and ``self_loops`` among them, and
        ``features`` (names); ``out`` where a file was written; ``feature_set`` with ``records``
        (written: a record of a later moment stays) where the online store was.

    Raises:
        ConfigError: No edges or no result is named.
        UsageError: A file is not there, or the output cannot be one.
        DataError: The rows are not what was declared; nothing is written.
        ConflictError: The feature set is made from definitions.
        ArtifactError: The output cannot be written.
    """
    graph = recipe.graph
    _require_places(recipe)
    edges = read_edges(graph)
    table = node_table(graph, edges)
    result: dict[str, Any] = {"nodes": table.height, **_counts(edges, graph)}
    result["features"] = [name for name in table.columns if name not in (graph.key, EVENT_TIME)]
    if graph.out is not None:
        _write(table, graph.out)
        result["out"] = str(graph.out)
    if graph.feature_set is not None:
        result["feature_set"] = graph.feature_set
        result["records"] = _store(recipe, graph, table)
    return result


def node_table(config: GraphConfig, edges: pl.DataFrame) -> pl.DataFrame:
    """One row a node: its key, ``event_time`` where there is ``as_of``, and its features.

    Args:
        config: What is wanted.
        edges: The edges that are there by then.

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
    made = [pl.DataFrame({key: graph.nodes})]
    if config.as_of is not None:
        moment = pl.repeat(config.as_of.astimezone(UTC), graph.size, eager=True)
        made.append(pl.DataFrame({EVENT_TIME: moment.cast(pl.Datetime("us", "UTC"))}))
    with progress_bar("graph", len(parts)) as bar:
        for name, compute in parts:
            made.append(compute().drop(key))
            bar.note(name)
            bar.advance()
    return pl.concat(made, how="horizontal")


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


def _require_places(recipe: GraphRecipe) -> None:
    graph = recipe.graph
    if not graph.edge_files():
        raise ConfigError("graph.edges is missing.", "Name a file of edges.", "graph.edges")
    if graph.out is None and graph.feature_set is None:
        raise ConfigError(
            "Neither graph.out nor graph.feature_set is there: nothing would be kept.",
            "Name a Parquet file or a feature set.",
            "graph.out",
        )
    if graph.feature_set is not None:
        _require_free(recipe, graph.feature_set)
    if graph.out is None:
        return
    if graph.out.suffix != ".parquet":
        raise UsageError(f"{graph.out} does not end in .parquet.", "Rows are Parquet.", "graph.out")
    inputs = [*graph.edge_files(), *([graph.nodes.table] if graph.nodes else [])]
    if graph.out.absolute() in {file.absolute() for path in inputs for file in data_files(path)}:
        raise UsageError(f"{graph.out} is an input itself.", "Name another file.", "graph.out")


def _require_free(settings: Settings, feature_set: str) -> None:
    from sunloom.feature_store.stores.online.open import open_online_store
    from sunloom.feature_store.stores.online.spaces import PLANS, STREAMS

    store, name = open_online_store(settings), feature_set.encode()
    if any(store.get_many(space, [name])[0] is not None for space in (PLANS, STREAMS)):
        raise ConflictError(
            f"The feature set {feature_set!r} is made from definitions.",
            "Choose another name for the nodes' features.",
            "graph.feature_set",
        )


def _counts(edges: pl.DataFrame, graph: GraphConfig) -> dict[str, int]:
    ends = [pl.col(graph.source), pl.col(graph.target)]
    pair = (
        ends if graph.directed else [pl.min_horizontal(ends), pl.max_horizontal(ends).alias("high")]
    )
    different = edges.select(pair).n_unique()
    loops = int((edges[graph.source] == edges[graph.target]).sum())
    return {
        "edges": edges.height,
        "repeated_edges": edges.height - different,
        "self_loops": loops,
    }


def _write(table: pl.DataFrame, out: Path) -> None:
    try:
        with atomic_path(out) as partial:
            table.write_parquet(partial)
    except OSError as error:
        raise ArtifactError(
            f"{out} cannot be written: {error}", "An earlier file is whole. Run again."
        ) from error


def _store(settings: Settings, graph: GraphConfig, table: pl.DataFrame) -> int:
    from sunloom.feature_store.stores.online.open import open_online_store

    assert graph.feature_set is not None
    if EVENT_TIME not in table.columns:
        now = pl.lit(datetime.now(UTC)).cast(pl.Datetime("us", "UTC"))
        table = table.with_columns(now.alias(EVENT_TIME))
    store = open_online_store(settings)
    return store.write(graph.feature_set, table, key=graph.key, time=EVENT_TIME)
