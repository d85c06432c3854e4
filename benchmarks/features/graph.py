"""PageRank and neighbours' means on a million edges, against networkx; coordinates of nodes.

    .venv/bin/python -m benchmarks.features.graph --edges 1000000

Both begin with the same table of edges. CPU seconds of one process, the best of some runs; the
ratios say how many times as much networkx takes. ``--text`` names nodes by text.
"""

from __future__ import annotations

import argparse
import json
import resource
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from sunloom.preprocessing.graph.edges import graph_of
from sunloom.preprocessing.graph.node_features import (
    graph_embedding,
    graph_features,
    neighbour_features,
)

RUNS = 3
PART = "pagerank_and_neighbours"


def edges_of(count: int, nodes: int, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Edges whose ends are often the same few nodes, and a number for each node."""
    rng = np.random.default_rng(seed)
    ends = (rng.power(0.5, (count, 2)) * nodes).astype(np.int64)
    edges = pl.DataFrame({"source": ends[:, 0], "target": ends[:, 1]})
    return edges, pl.DataFrame({"node": np.arange(nodes), "x": rng.normal(size=nodes)})


def communities(
    count: int, nodes: int, blocks: int, inside: float, seed: int = 0
) -> tuple[Any, Any]:
    """Edges [count, 2], the share ``inside`` of them within a block, and each node's block."""
    rng = np.random.default_rng(seed)
    block = np.arange(nodes) % blocks
    source = rng.integers(0, nodes, count)
    anywhere = rng.integers(0, nodes, count)
    near = rng.integers(0, nodes // blocks, count) * blocks + block[source]
    target = np.where(rng.random(count) < inside, near, anywhere)
    return np.column_stack([source, target]), block


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def ours(edges: pl.DataFrame, values: pl.DataFrame) -> tuple[dict[str, float], pl.DataFrame]:
    """CPU seconds by part, and the features."""
    start = _cpu_s()
    graph = graph_of(edges, directed=True)
    built = _cpu_s()
    ranks = graph_features(graph, ["pagerank"])
    ranked = _cpu_s()
    means = neighbour_features(graph, values, ["mean"])
    middle = _cpu_s()
    graph_features(graph, ["degree", "component"])
    later = _cpu_s()
    graph_features(graph, ["clustering"])
    return {
        "build": built - start,
        "pagerank": ranked - built,
        "neighbours": middle - ranked,
        PART: middle - start,
        "degree_and_components": later - middle,
        "clustering": _cpu_s() - later,
    }, pl.concat([ranks, means.drop("node")], how="horizontal")


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
    times = {"build": built - start, "pagerank": ranked - built, "neighbours": done - ranked}
    return times | {PART: done - start}, {"graph": graph, "means": means}


def compared(found: pl.DataFrame, figures: dict[str, Any]) -> dict[str, float]:
    """Greatest differences from networkx's figures."""
    import networkx as nx

    # Its default tolerance grows with the nodes: equality is judged at a tight one, not timed.
    ranks = nx.pagerank(figures["graph"], tol=1e-15, max_iter=1000)
    nodes = found["node"].to_list()
    theirs = np.array([ranks[node] for node in nodes])
    means = pl.Series([figures["means"][node] for node in nodes])
    apart = np.abs(found["pagerank"].to_numpy() - theirs)
    return {
        "pagerank": float(apart.max()),
        "pagerank_relative": float((apart / theirs).max()),
        "neighbour_mean": float(np.nanmax(np.abs((found["neighbour_mean_x"] - means).to_numpy()))),
    }


def embedded(count: int, nodes: int, dimensions: int = 16, blocks: int = 12) -> dict[str, float]:
    """CPU seconds, and how well coordinates predict edges that were held out.

    The area under the curve is of edges against pairs by chance; ``auc_of_blocks`` is what knowing
    the planted blocks reaches, the most that can be.
    """
    from sklearn.metrics import roc_auc_score

    edges, block = communities(count + count // 10, nodes, blocks, inside=0.8)
    known, hidden = edges[:count], edges[count:]
    start = _cpu_s()
    graph = graph_of(pl.DataFrame({"source": known[:, 0], "target": known[:, 1]}))
    found = graph_embedding(graph, dimensions)
    used = _cpu_s() - start
    place = np.full(nodes, -1)
    place[found["node"].to_numpy()] = np.arange(found.height)
    at = found.drop("node").to_numpy()
    pairs = np.concatenate([hidden, np.random.default_rng(1).integers(0, nodes, hidden.shape)])
    pairs_known = (place[pairs] >= 0).all(axis=1)
    real = (np.arange(len(pairs)) < len(hidden))[pairs_known]
    pairs = pairs[pairs_known]
    near = np.einsum("nd,nd->n", at[place[pairs[:, 0]]], at[place[pairs[:, 1]]])
    same = block[pairs[:, 0]] == block[pairs[:, 1]]
    return {
        "dimensions": dimensions,
        "cpu_s": round(used, 2),
        "auc": round(float(roc_auc_score(real, near)), 4),
        "auc_of_blocks": round(float(roc_auc_score(real, same)), 4),
    }


def _named(column: str) -> pl.Expr:
    return pl.format("account-{}", column).alias(column)


def _best(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(value, 3) for key, value in min(runs, key=lambda run: run[PART]).items()}


def main() -> None:
    """Run all and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--nodes", type=int, default=200_000)
    parser.add_argument("--text", action="store_true")
    options = parser.parse_args()
    edges, values = edges_of(options.edges, options.nodes)
    if options.text:
        edges = edges.select(_named("source"), _named("target"))
        values = values.with_columns(_named("node"))
    runs = [ours(edges, values) for _ in range(RUNS)]
    embedding = embedded(options.edges, options.nodes)
    # Before networkx, whose graph takes several times as much.
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peers = [peer(edges, values)[0] for _ in range(RUNS - 1)]
    last, figures = peer(edges, values)
    mine, theirs = _best([run for run, _ in runs]), _best([*peers, last])
    result = {
        "edges": options.edges,
        "nodes": runs[0][1].height,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "ours_cpu_s": mine,
        "networkx_cpu_s": theirs,
        "times_faster": {
            "from_edges_to_features": round(theirs[PART] / mine[PART], 1),
            "without_networkxs_graph": round((theirs[PART] - theirs["build"]) / mine[PART], 1),
            "without_either_graph": round(
                (theirs[PART] - theirs["build"]) / (mine[PART] - mine["build"]), 1
            ),
        },
        "greatest_difference": compared(runs[0][1], figures),
        "embedding": embedding,
        "peak_bytes": peak_bytes,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
