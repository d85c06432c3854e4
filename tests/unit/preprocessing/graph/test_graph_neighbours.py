"""Neighbours' values equal a loop's."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from sunloom.config.preprocessing.graph import Aggregation, Direction
from sunloom.errors import DataError
from sunloom.preprocessing.graph.edges import graph_of
from sunloom.preprocessing.graph.node_features import neighbour_features

EVERY: tuple[Aggregation, ...] = ("mean", "sum", "min", "max", "count")
FIGURES: dict[str, Any] = {
    "mean": lambda values: sum(values) / len(values) if values else None,
    "sum": lambda values: sum(values) if values else None,
    "min": lambda values: min(values, default=None),
    "max": lambda values: max(values, default=None),
    "count": len,
}


@pytest.mark.parametrize(
    ("directed", "direction"), [(False, "out"), (True, "out"), (True, "in"), (True, "both")]
)
def test_figures_equal_a_loops(directed: bool, direction: Direction) -> None:
    rng = np.random.default_rng(3)
    ends = rng.integers(0, 60, (150, 2))
    edges = pl.DataFrame({"source": ends[:, 0], "target": ends[:, 1]})
    x = [None if i % 7 == 0 else float("nan") if i % 7 == 1 else i / 3 - 8 for i in range(55)]
    values = pl.DataFrame({"node": range(55), "x": x, "yes": [i % 3 == 0 for i in range(55)]})
    graph = graph_of(edges, directed=directed)
    found = neighbour_features(graph, values, EVERY, direction=direction)
    near: dict[int, set[int]] = {node: set() for node in graph.nodes}
    for source, target in ends.tolist():
        if not directed or direction != "in":
            near[source].add(target)
        if not directed or direction != "out":
            near[target].add(source)
    for name in ("x", "yes"):
        held = dict(values.select("node", name).rows())
        there = {n: float(v) for n, v in held.items() if v is not None and v == v}
        for wanted in EVERY:
            figures = [
                FIGURES[wanted]([there[other] for other in near[node] if other in there])
                for node in graph.nodes
            ]
            assert found[f"neighbour_{wanted}_{name}"].to_list() == pytest.approx(figures), wanted
    assert found["neighbour_count_x"].dtype == pl.Int64


def test_nodes_without_neighbours_and_columns_without_values() -> None:
    edges = pl.DataFrame({"source": ["a", "a", "b", "c"], "target": ["b", "c", "c", "d"]})
    values = pl.DataFrame({"node": ["a", "b", "c"], "x": [1.0, 2.0, None], "gone": [None] * 3})
    found = neighbour_features(graph_of(edges, directed=True), values, ["mean", "count"])
    assert found.to_dict(as_series=False) == {
        "node": ["a", "b", "c", "d"],
        "neighbour_mean_x": [2.0, None, None, None],
        "neighbour_count_x": [1, 0, 0, 0],
        "neighbour_mean_gone": [None] * 4,
        "neighbour_count_gone": [0] * 4,
    }
    nothing = neighbour_features(graph_of(edges.clear()), values, EVERY)
    assert nothing.height == 0


def test_a_repeated_edge_counts_once_and_a_node_may_be_its_own_neighbour() -> None:
    edges = pl.DataFrame({"source": [1, 1, 1, 2], "target": [2, 2, 3, 2]})
    values = pl.DataFrame({"node": [1, 2, 3], "x": [1.0, 10.0, 100.0]})
    found = neighbour_features(graph_of(edges, directed=True), values, ["mean", "sum"])
    assert found["neighbour_mean_x"].to_list() == [55.0, 10.0, None]
    assert found["neighbour_sum_x"].to_list() == [110.0, 10.0, None]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"node": [1, 1], "x": [1, 2]}, "twice"),
        ({"node": [1], "x": ["a"]}, "no number"),
        ({"id": [1], "x": [1]}, "lacks the column node"),
        ({"node": ["1"], "x": [1]}, "Cast one of them"),
        ({"node": [1], "x": [float("inf")]}, "infinite somewhere"),
    ],
)
def test_values_that_are_refused(values: dict[str, Any], words: str) -> None:
    graph = graph_of(pl.DataFrame({"source": [1], "target": [2]}))
    with pytest.raises(DataError, match=words):
        neighbour_features(graph, pl.DataFrame(values))
