"""Configuration of graph features: edges, nodes, and which features of the nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import AwareDatetime, Field, field_validator, model_validator

from sunloom.config.loading.model import Model
from sunloom.config.settings import Settings

NodeFeature = Literal[
    "degree",
    "in_degree",
    "out_degree",
    "strength",
    "in_strength",
    "out_strength",
    "component",
    "component_size",
    "pagerank",
    "clustering",
]
Aggregation = Literal["mean", "sum", "min", "max", "count"]
Direction = Literal["out", "in", "both"]
# Features that only a directed graph has.
_DIRECTED = ("in_degree", "out_degree", "in_strength", "out_strength")
# Written into ``features`` by mistake: they have a section of their own.
_SECTIONS = {"embedding": "embedding: {dimensions: 16}", "neighbours": "nodes: {table: FILE}"}


class PagerankConfig(Model):
    """How ``pagerank`` is computed; it follows weights and directions."""

    # At 1 nobody jumps, and the walk need not converge.
    damping: float = Field(default=0.85, ge=0, lt=1)
    """Share of steps along an edge; the others jump to any node."""
    tol: float = Field(default=1e-12, ge=1e-14, lt=1)
    """Total change of the ranks, which sum to 1, below which it stops."""
    max_iter: int = Field(default=1000, ge=1)
    """Steps after which it is an error not to have converged."""


class NodesConfig(Model):
    """A table of the nodes: ``neighbour_<aggregation>_<column>`` over each node's neighbours.

    A node of this table without an edge has a row too.
    """

    table: Path
    """Rows: a Parquet, CSV or JSON-lines file, or a folder of them."""
    key: str | None = None
    """Column with the node; that of the edges' recipe, ``graph.key``, when empty."""
    columns: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Columns of numbers, true and false; all but key and time when empty."""
    aggregations: tuple[Aggregation, ...] = Field(default=("mean", "sum"), min_length=1)
    """Aggregates; missing values do not count. Without any value ``count`` is 0, the others are
    null."""
    direction: Direction = "out"
    """Which neighbours: those that an edge leads to, those that it comes from, or both."""
    time: str | None = None
    """Column with the time from which a row is valid: each node's latest by ``as_of`` counts.
    Without it a node has one row."""


class EmbeddingConfig(Model):
    """Coordinates ``embedding_<n>`` of each node: near for nodes with the same neighbourhoods.

    Leading eigenvectors of the regularised, normalised adjacency, with weights, without
    directions; nothing about them is random.
    """

    dimensions: int = Field(default=16, ge=1, le=512)
    """Number of coordinates; those beyond the graph's positive eigenvalues are 0."""


class GraphConfig(Model):
    """Features of the nodes of a graph, one row per node.

    Of repeated edges the weights add up. One from a node to itself counts twice in degree and
    strength, and not in clustering and embedding.
    """

    edges: Path | tuple[Path, ...] | None = None
    """Rows, one per edge: a Parquet, CSV or JSON-lines file, a folder of them, or a list."""
    source: str = "source"
    """Column with the node that an edge leaves: whole numbers or text."""
    target: str = "target"
    """Column with the node that it reaches."""
    weight: str | None = None
    """Column with its weight, above 0, for strength, pagerank and embedding; 1 when empty."""
    directed: bool = False
    """Whether edges have a direction."""
    time: str | None = None
    """Column with the time from which an edge exists; needs ``as_of``."""
    as_of: AwareDatetime | None = None
    """Edges after this time are ignored; it becomes the rows' ``event_time``."""
    key: str = Field(default="id", min_length=1)
    """Name of the nodes' column in the result."""
    features: tuple[NodeFeature, ...] = (
        "degree",
        "component",
        "component_size",
        "pagerank",
        "clustering",
    )
    """Which features, each a column. ``degree`` counts different neighbours, ``strength`` sums
    weights, ``component`` numbers the connected components from 0 by their least node."""
    pagerank: PagerankConfig = PagerankConfig()
    """How ``pagerank`` is computed."""
    nodes: NodesConfig | None = None
    """A table of the nodes whose neighbours' values are aggregated."""
    embedding: EmbeddingConfig | None = None
    """Coordinates of each node; none when empty."""
    out: Path | None = None
    """Parquet file to write. A submitted job needs an absolute path: it works in a copy."""
    feature_set: str | None = Field(default=None, min_length=1)
    """Name of a feature set in the online store to write the rows to, as of ``as_of`` or, when
    that is empty, now. Records of nodes that an earlier run had stay."""

    @field_validator("features", mode="before")
    @classmethod
    def _refuse_sections(cls, value: Any) -> Any:
        for name in value if isinstance(value, list | tuple) else ():
            if name in _SECTIONS:
                raise ValueError(f"{name} is no name here: write `{_SECTIONS[name]}` beside it")
        return value

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        if (self.time is None) != (self.as_of is None):
            given, missing = ("time", "as_of") if self.time else ("as_of", "time")
            raise ValueError(f"{given} needs {missing}")
        if self.nodes is not None and self.nodes.time is not None and self.as_of is None:
            raise ValueError("nodes.time needs as_of")
        return self

    @model_validator(mode="after")
    def _check_directions(self) -> Self:
        if self.directed:
            return self
        if wrong := [name for name in self.features if name in _DIRECTED]:
            raise ValueError(f"{wrong[0]} needs directed: true")
        if self.nodes is not None and self.nodes.direction != "out":
            raise ValueError(f"nodes.direction: {self.nodes.direction} needs directed: true")
        return self

    @model_validator(mode="after")
    def _check_features(self) -> Self:
        if not self.features and self.nodes is None and self.embedding is None:
            raise ValueError("nothing is wanted: name features, nodes or embedding")
        # The section has a default: only whether it was written shows the mistake.
        if "pagerank" in self.model_fields_set and "pagerank" not in self.features:
            raise ValueError("pagerank is set up, but features does not name it")
        if self.key in (*self.features, "event_time"):
            raise ValueError(f"key {self.key!r} is the name of another column of the result")
        return self

    def edge_files(self) -> tuple[Path, ...]:
        """The paths under ``edges``."""
        if self.edges is None:
            return ()
        return (self.edges,) if isinstance(self.edges, Path) else self.edges


class GraphRecipe(Settings):
    """Features of the nodes of a graph, from a table of its edges."""

    graph: GraphConfig = GraphConfig()
    """Edges, features, results."""
