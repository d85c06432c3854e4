"""Every figure of a node equals networkx's."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from sunloom.errors import DataError
from sunloom.preprocessing.graph.edges import graph_of
from sunloom.preprocessing.graph.node_features import features_of, graph_features, pagerank

nx = pytest.importorskip("networkx", reason="pip install networkx")


def random_edges(nodes: int = 300, edges: int = 900, seed: int = 0) -> pl.DataFrame:
    """Some nodes in many edges, some in few, a few to themselves, some twice."""
    rng = np.random.default_rng(seed)
    ends = (rng.power(0.5, (edges, 2)) * nodes).astype(int)
    weight = rng.integers(1, 4, edges).astype(float)
    return pl.DataFrame({"source": ends[:, 0], "target": ends[:, 1], "weight": weight})


def peer_of(edges: pl.DataFrame, directed: bool, nodes: list[int]) -> Any:
    """The same graph in networkx, weights of repeated edges added up."""
    graph = nx.DiGraph() if directed else nx.Graph()
    graph.add_nodes_from(nodes)
    for source, target, weight in edges.rows():
        held = graph.get_edge_data(source, target, {"weight": 0.0})["weight"]
        graph.add_edge(source, target, weight=held + weight)
    return graph


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_figures_equal_networkx(directed: bool, seed: int) -> None:
    edges = random_edges(seed=seed)
    graph = graph_of(edges, weight="weight", directed=directed, nodes=[-1, -2])
    peer = peer_of(edges, directed, graph.nodes.to_list())
    found = graph_features(graph)
    assert found["node"].to_list() == sorted(peer.nodes)
    nodes = found["node"].to_list()
    assert found["degree"].to_list() == [peer.degree(node) for node in nodes]
    strength = [peer.degree(node, weight="weight") for node in nodes]
    assert found["strength"].to_list() == pytest.approx(strength)
    if directed:
        assert found["in_degree"].to_list() == [peer.in_degree(node) for node in nodes]
        assert found["out_degree"].to_list() == [peer.out_degree(node) for node in nodes]
        into = [peer.in_degree(node, weight="weight") for node in nodes]
        assert found["in_strength"].to_list() == pytest.approx(into)
        out = [peer.out_degree(node, weight="weight") for node in nodes]
        assert found["out_strength"].to_list() == pytest.approx(out)
    ranks = nx.pagerank(peer, tol=1e-12, max_iter=1000)
    assert found["pagerank"].to_list() == pytest.approx([ranks[n] for n in nodes], abs=1e-9)
    plain = nx.Graph(peer)
    plain.remove_edges_from(nx.selfloop_edges(plain))
    shares = nx.clustering(plain)
    assert found["clustering"].to_list() == pytest.approx([shares[n] for n in nodes], abs=1e-12)
    parts = {frozenset(part) for part in nx.connected_components(nx.Graph(peer))}
    ours = found.group_by("component").agg("node", pl.col("component_size").first())
    assert {frozenset(part) for part in ours["node"].to_list()} == parts
    assert ours["component_size"].to_list() == ours["node"].list.len().to_list()
    assert found["component"][0] == 0


def test_only_the_named_features_in_their_order() -> None:
    graph = graph_of(random_edges())
    wanted = ["component_size", "degree"]
    assert graph_features(graph, wanted, key="id").columns == ["id", *wanted]
    every = graph_features(graph)
    assert every.columns == ["node", *features_of(graph)]
    assert not [name for name in every.columns if name.startswith(("in_", "out_"))]


def test_repeated_edges_and_edges_to_oneself() -> None:
    edges = pl.DataFrame({"source": [1, 1, 2, 3], "target": [2, 2, 1, 3]})
    found = graph_features(graph_of(edges), ["degree", "strength", "clustering"])
    assert found.rows() == [(1, 1, 3.0, 0.0), (2, 1, 3.0, 0.0), (3, 2, 2.0, 0.0)]
    found = graph_features(graph_of(edges, directed=True), ["degree", "out_degree", "out_strength"])
    assert found.rows() == [(1, 2, 1, 2.0), (2, 2, 1, 1.0), (3, 2, 1, 1.0)]


@pytest.mark.parametrize("damping", [0.0, 0.5, 0.99])
def test_damping(damping: float) -> None:
    edges = random_edges()
    ranks = pagerank(graph_of(edges, directed=True), damping, most=5000)
    peer = nx.from_pandas_edgelist(
        edges.group_by("source", "target").len("weight").to_pandas(),
        edge_attr="weight",
        create_using=nx.DiGraph,
    )
    theirs = nx.pagerank(peer, alpha=damping, tol=1e-13, max_iter=5000)
    assert ranks.tolist() == pytest.approx([theirs[node] for node in sorted(peer)], rel=1e-7)
    assert ranks.sum() == pytest.approx(1.0)


def test_ranks_that_do_not_converge_are_refused() -> None:
    graph = graph_of(random_edges(), directed=True)
    with pytest.raises(DataError, match=r"PageRank still changes.*after 3 steps"):
        pagerank(graph, most=3)
    loose = pagerank(graph, tolerance=0.5, most=3)
    assert 1e-6 < np.abs(loose - pagerank(graph)).max() < 0.5


def test_a_node_with_very_many_edges_settles_as_far_as_rounding_lets_it() -> None:
    leaves = 200_000
    star = pl.DataFrame({"source": [0] * leaves, "target": range(1, leaves + 1)})
    ranks = pagerank(graph_of(star), tolerance=1e-14)
    # Of h = 0.15 / n + 0.85 (1 - h): all that the leaves have goes to the hub.
    hub = (0.15 / (leaves + 1) + 0.85) / 1.85
    assert ranks[0] == pytest.approx(hub, rel=1e-9)
    assert ranks.sum() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("directed", [False, True])
def test_text_and_numbers_name_the_same_nodes(directed: bool) -> None:
    edges = random_edges()
    ends = ("source", "target")
    digits = [pl.format("{}", pl.col(end).cast(pl.String).str.zfill(5)).alias(end) for end in ends]
    numbers = graph_features(graph_of(edges, directed=directed)).drop("node")
    named = edges.with_columns(digits)
    texts = graph_features(graph_of(named, directed=directed))
    assert texts["node"].dtype == pl.String
    assert texts.drop("node").equals(numbers)
    levels = named.with_columns(pl.col(ends).cast(pl.Categorical))
    assert graph_features(graph_of(levels, directed=directed)).equals(texts)
    far = edges.with_columns(pl.col(end).cast(pl.Int64) * 10**15 - 7 for end in ends)
    assert graph_features(graph_of(far, directed=directed)).drop("node").equals(numbers)
    narrow = edges.with_columns(pl.col("source").cast(pl.UInt16), pl.col("target").cast(pl.Int32))
    assert graph_features(graph_of(narrow, directed=directed)).drop("node").equals(numbers)


def test_an_empty_graph_and_a_lonely_node() -> None:
    empty = pl.DataFrame(schema={"source": pl.Int64, "target": pl.Int64})
    for directed in (False, True):
        nothing = graph_features(graph_of(empty, directed=directed))
        assert nothing.height == 0
        assert nothing["component"].dtype == pl.Int64
    alone = graph_features(graph_of(empty, nodes=[7]))
    figures = {"degree": 0, "strength": 0.0, "component": 0, "component_size": 1}
    assert alone.row(0, named=True) == {"node": 7, **figures, "clustering": 0.0, "pagerank": 1.0}
    untyped = pl.DataFrame({"source": [], "target": []})
    assert graph_of(untyped, nodes=["a"]).nodes.to_list() == ["a"]


def test_invalid_edges_are_refused() -> None:
    with pytest.raises(DataError, match="lacks the column target"):
        graph_of(pl.DataFrame({"source": [1]}))
    for ends in ([1, None], [None, None]):
        with pytest.raises(DataError, match=r"'target' is missing in \d of 2 rows"):
            graph_of(pl.DataFrame({"source": [1, 2], "target": ends}))
    with pytest.raises(DataError, match="'source' is Float64; nodes are whole numbers"):
        graph_of(pl.DataFrame({"source": [1.5], "target": [1]}))
    with pytest.raises(DataError, match="'source' is UInt64; nodes are whole numbers"):
        large = pl.Series("source", [2**63], dtype=pl.UInt64)
        graph_of(pl.DataFrame([large, pl.Series("target", [1])]))
    with pytest.raises(DataError, match="the same node would be two"):
        graph_of(pl.DataFrame({"source": ["1"], "target": [1]}))
    with pytest.raises(DataError, match="the same node would be two"):
        graph_of(pl.DataFrame({"source": [1], "target": [2]}), nodes=pl.Series(["a"]))


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf"), None])
def test_invalid_weights_are_refused(bad: float | None) -> None:
    edges = pl.DataFrame(
        {"source": [1, 2], "target": [2, 1], "w": [1.0, bad]}, schema_overrides={"w": float}
    )
    with pytest.raises(DataError, match=r"finite number above 0: .* \(row 1\)"):
        graph_of(edges, weight="w")
    for column in ("a", None):
        with pytest.raises(DataError, match="finite number above 0"):
            graph_of(edges.with_columns(pl.lit(column).alias("w")), weight="w")
