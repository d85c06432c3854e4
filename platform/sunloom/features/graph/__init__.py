"""Features of the nodes of a graph, from a table of its edges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sunloom.core.lazy import lazy_exports

if TYPE_CHECKING:
    from sunloom.features.graph.features import graph_features
    from sunloom.features.graph.matrix import Graph, graph_of

__all__ = ["Graph", "graph_features", "graph_of"]

_HOMES = {"Graph": "matrix", "graph_features": "features", "graph_of": "matrix"}

__getattr__ = lazy_exports(__name__, _HOMES)
