"""Every figure of a node equals networkx's, and a loop's."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from sunloom.errors import DataError
from sunloom.features.graph import graph_features, graph_of

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


def test_neighbours_values() -> None:
    edges = pl.DataFrame({"source": ["a", "a", "b", "c"], "target": ["b", "c", "c", "d"]})
    values = pl.DataFrame({"node": ["a", "b", "c"], "x": [1.0, 2.0, None]})
    found = graph_features(graph_of(edges, directed=True), (), values)
    assert found.to_dict(as_series=False) == {
        "node": ["a", "b", "c", "d"],
        "neighbour_mean_x": [2.0, None, None, None],
        "neighbour_sum_x": [2.0, None, None, None],
    }
    both = graph_features(graph_of(edges), (), values)
    assert both["neighbour_mean_x"].to_list() == [2.0, 1.0, 1.5, None]


def test_odd_graphs() -> None:
    empty = pl.DataFrame(schema={"source": pl.Int64, "target": pl.Int64})
    assert graph_features(graph_of(empty)).height == 0
    alone = graph_features(graph_of(empty, nodes=[7]))
    assert alone.row(0) == (7, 0, 0.0, 0, 1, 1.0, 0.0)
    with pytest.raises(DataError, match="lacks the column target"):
        graph_of(pl.DataFrame({"source": [1]}))
    with pytest.raises(DataError, match="no 'target'"):
        graph_of(pl.DataFrame({"source": [1], "target": [None]}, schema_overrides={"target": int}))
    for bad in (0.0, -1.0, float("nan"), float("inf"), None):
        edges = pl.DataFrame(
            {"source": [1], "target": [2], "w": [bad]}, schema_overrides={"w": float}
        )
        with pytest.raises(DataError, match="finite number above 0"):
            graph_of(edges, weight="w")
    edges = pl.DataFrame({"source": [1], "target": [2]})
    for values, words in (
        ({"node": [1, 1], "x": [1, 2]}, "twice"),
        ({"node": [1], "x": ["a"]}, "no number"),
        ({"id": [1], "x": [1]}, "lacks the column node"),
    ):
        with pytest.raises(DataError, match=words):
            graph_features(graph_of(edges), (), pl.DataFrame(values))
