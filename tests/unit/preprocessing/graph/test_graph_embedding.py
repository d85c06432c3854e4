"""Coordinates find planted communities, predict links, and are always the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import sunloom.preprocessing.graph.node_features as module
from sunloom.preprocessing.graph.edges import graph_of
from sunloom.preprocessing.graph.node_features import graph_embedding


def planted(
    nodes: int, edges: int, blocks: int, inside: float, seed: int = 0
) -> tuple[pl.DataFrame, Any]:
    """Edges, the share ``inside`` of them within a block, and the block of each node."""
    rng = np.random.default_rng(seed)
    block = np.arange(nodes) % blocks
    source, anywhere = rng.integers(0, nodes, (2, edges))
    near = rng.integers(0, nodes // blocks, edges) * blocks + block[source]
    target = np.where(rng.random(edges) < inside, near, anywhere)
    return pl.DataFrame({"source": source, "target": target}), block


def coordinates(frame: pl.DataFrame) -> Any:
    return frame.drop("node").to_numpy()


@pytest.mark.parametrize("directed", [False, True])
def test_two_communities_are_on_two_sides(directed: bool) -> None:
    edges, block = planted(nodes=2000, edges=12_000, blocks=2, inside=0.6)
    found = graph_embedding(graph_of(edges, directed=directed, nodes=range(2000)), 2)
    side = found["embedding_1"].to_numpy() > 0
    right = (side == block).mean()
    assert max(right, 1 - right) > 0.97


def test_links_that_were_held_out_are_predicted_as_well_as_knowing_the_blocks() -> None:
    from sklearn.metrics import roc_auc_score

    edges, block = planted(nodes=3000, edges=40_000, blocks=6, inside=0.8)
    known, hidden = edges.head(36_000), edges.tail(4000).to_numpy()
    at = coordinates(graph_embedding(graph_of(known, nodes=range(3000)), 6))
    pairs = np.concatenate([hidden, np.random.default_rng(9).integers(0, 3000, (4000, 2))])
    real = np.arange(8000) < 4000
    near = np.einsum("nd,nd->n", at[pairs[:, 0]], at[pairs[:, 1]])
    most = roc_auc_score(real, block[pairs[:, 0]] == block[pairs[:, 1]])
    assert roc_auc_score(real, near) > most - 0.01 > 0.8


def test_a_small_part_does_not_take_a_leading_place() -> None:
    edges, block = planted(nodes=1000, edges=8000, blocks=2, inside=0.6)
    pairs = pl.DataFrame({"source": range(5000, 5040, 2), "target": range(5001, 5041, 2)})
    found = graph_embedding(graph_of(pl.concat([edges, pairs]), nodes=range(1000)), 2)
    side = found["embedding_1"].head(1000).to_numpy() > 0
    assert max((side == block).mean(), (side != block).mean()) > 0.97
    assert found.tail(40).select(pl.col("^embedding_.*$").abs().max()).row(0) < (1e-2, 1e-2)


def test_the_same_table_gives_the_same_coordinates() -> None:
    edges, _ = planted(nodes=1500, edges=9000, blocks=5, inside=0.7)
    first = graph_embedding(graph_of(edges), 5)
    assert_frame_equal(graph_embedding(graph_of(edges), 5), first, rel_tol=0, abs_tol=0)
    shuffled = edges.sample(fraction=1.0, shuffle=True, seed=1)
    assert_frame_equal(graph_embedding(graph_of(shuffled), 5), first, rel_tol=1e-9, abs_tol=1e-9)
    sizes = first.select(pl.col("^embedding_.*$")).to_numpy()
    assert (sizes.max(axis=0) == np.abs(sizes).max(axis=0)).all(), "the greatest entry is positive"


def test_coordinates_are_the_leading_eigenvectors(monkeypatch: pytest.MonkeyPatch) -> None:
    edges, _ = planted(nodes=300, edges=3000, blocks=3, inside=0.8)
    graph = graph_of(edges.with_columns(pl.lit(2.5).alias("w")), weight="w")
    iterated = coordinates(graph_embedding(graph, 3))
    monkeypatch.setattr(module, "_DENSE_SIZE", 1000)
    dense = coordinates(graph_embedding(graph, 3))
    adjacency = graph.mutual.toarray()
    degrees = adjacency.sum(axis=1)
    root = np.diag(1 / np.sqrt(degrees + degrees.mean()))
    values, vectors = np.linalg.eigh(root @ adjacency @ root)
    wanted = vectors[:, ::-1][:, :3] * np.sqrt(values[::-1][:3] * 300)
    assert np.abs(dense) == pytest.approx(np.abs(wanted), abs=1e-9)
    assert iterated == pytest.approx(dense, abs=0.02)
    assert (dense**2).mean(axis=0) == pytest.approx(values[::-1][:3])


def test_weights_count() -> None:
    edges, block = planted(nodes=400, edges=6000, blocks=2, inside=0.0)
    same = block[edges["source"].to_numpy()] == block[edges["target"].to_numpy()]
    weighed = edges.with_columns(pl.Series("w", np.where(same, 5.0, 1.0)))
    side = coordinates(graph_embedding(graph_of(weighed, weight="w"), 2))[:, 1] > 0
    assert max((side == block).mean(), (side != block).mean()) > 0.95
    blind = coordinates(graph_embedding(graph_of(weighed), 2))[:, 1] > 0
    assert max((blind == block).mean(), (blind != block).mean()) < 0.6


def test_small_and_empty_graphs() -> None:
    empty = pl.DataFrame(schema={"source": pl.Int64, "target": pl.Int64})
    nothing = graph_embedding(graph_of(empty), 3)
    assert (nothing.height, nothing.columns[1:]) == (0, [f"embedding_{n}" for n in range(3)])
    assert graph_embedding(graph_of(empty, nodes=[1]), 2).row(0) == (1, 0.0, 0.0)
    loop = pl.DataFrame({"source": [1], "target": [1]})
    assert graph_embedding(graph_of(loop), 1).row(0) == (1, 0.0)
    pair = graph_embedding(graph_of(pl.DataFrame({"source": [1], "target": [2]})), 3)
    # One edge between two nodes of degree 1, raised by 1: the eigenvalue is a half.
    wanted = np.sqrt(0.5)
    assert coordinates(pair) == pytest.approx(np.array([[wanted, 0, 0], [wanted, 0, 0]]))
