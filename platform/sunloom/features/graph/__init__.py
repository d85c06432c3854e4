"""Features of the nodes of a graph, from a table of its edges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sunloom.core.lazy import lazy_exports

if TYPE_CHECKING:
    from sunloom.features.graph.embedding import graph_embedding
    from sunloom.features.graph.features import graph_features
    from sunloom.features.graph.matrix import Graph, graph_of
    from sunloom.features.graph.neighbours import neighbour_features

__all__ = ["Graph", "graph_embedding", "graph_features", "graph_of", "neighbour_features"]

_HOMES = {
    "Graph": "matrix",
    "graph_embedding": "embedding",
    "graph_features": "features",
    "graph_of": "matrix",
    "neighbour_features": "neighbours",
}

__getattr__ = lazy_exports(__name__, _HOMES)
