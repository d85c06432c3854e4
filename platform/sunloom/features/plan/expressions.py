"""Expressions that compute features; names follow Chalk.

An expression's columns are features of its own class; inside an aggregate they are features of the
joined class.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from sunloom.features.plan.dtypes import DType, Node

# Read back from JSON, pydantic keeps the exact type: True stays a bool and 1 an int.
Scalar = int | float | bool | str | None
Aggregation = Literal[
    "count",
    "sum",
    "mean",
    "min",
    "max",
    "std",
    "var",
    "first",
    "last",
    "any",
    "all",
    "count_distinct",
    "min_by",
    "max_by",
    "array_agg",
    "approx_top_k",
    "approx_percentile",
    "rows",
]
"""What an aggregate computes; ``rows`` gives the rows themselves, to Python resolvers alone."""


class Const(Node):
    """A literal: datetimes and durations in whole microseconds, dates in days since 1970.

    Lists are tuples of scalars.
    """

    op: Literal["const"] = "const"
    # No lists: expressions are hashed, and the engine keys its intermediate results by them.
    value: Scalar | tuple[Scalar, ...]
    dtype: DType


class Column(Node):
    """A feature of the row's class."""

    op: Literal["column"] = "column"
    name: str
    dtype: DType


class Now(Node):
    """The as-of time of the query row."""

    op: Literal["now"] = "now"
    dtype: DType = "datetime"


class Lookup(Node):
    """A feature of the one row that a has-one join leads to, as of the same time."""

    op: Literal["lookup"] = "lookup"
    join: str
    feature: str
    dtype: DType


class Call(Node):
    """A call of a function of ``expressions.functions.table``."""

    op: Literal["call"] = "call"
    function: str
    args: tuple[Expr, ...]
    dtype: DType


class Bound(Node):
    """A bound of a window: ``now`` minus ``ago_us``, inside the window or not."""

    ago_us: int
    inclusive: bool


class Window(Node):
    """Rows whose time lies from ``start`` (None: however old) to ``end`` (None: however new).

    ``column`` is the time that is compared; without one every row is inside.
    """

    column: str | None = None
    start: Bound | None = None
    end: Bound | None = None


class Aggregate(Node):
    """An aggregation over a has-many join.

    ``by`` is what ``min_by`` and ``max_by`` compare; ``argument`` is the ``k`` of ``approx_top_k``
    or the quantile of ``approx_percentile``.
    """

    op: Literal["aggregate"] = "aggregate"
    join: str
    kind: Aggregation
    value: Expr | None
    by: Expr | None = None
    argument: int | float | None = None
    where: tuple[Expr, ...] = ()
    window: Window = Window()
    dtype: DType

    @property
    def parts(self) -> tuple[Expr, ...]:
        """Its expressions, all of them over the joined class."""
        return tuple(part for part in (self.value, self.by, *self.where) if part is not None)


class Argument(Node):
    """One input of a resolver: its value, and the default that replaces null.

    Where ``required``, the function is not called if the value is null and there is no default.
    """

    name: str
    value: Expr
    required: bool
    default: Const | None = None


class Output(Node):
    """One feature that a resolver computes; where ``required``, a failed call is an error."""

    name: str
    dtype: DType
    required: bool


class Resolver(Node):
    """A Python function of the definitions module.

    It is called with its inputs as of the row's time: once per row, or, where it takes a frame,
    with many rows at once, each key at most once. ``digest`` changes with its source text.
    """

    # Workers import the module by the name that the user gave, and find the function by its own.
    definitions: str
    fqn: str
    digest: str
    # File and line, for messages.
    place: str
    kind: Literal["online", "offline"]
    shape: Literal["row", "frame"]
    args: tuple[Argument, ...]
    outputs: tuple[Output, ...]
    timeout_s: float | None = None
    batch_rows: int | None = None
    # Shown alone: values are computed as of each row's time, whenever that is.
    cron: str | None = Field(default=None, exclude_if=lambda value: value is None)


class Resolved(Node):
    """One output of a Python resolver."""

    op: Literal["resolved"] = "resolved"
    resolver: Resolver
    output: str
    dtype: DType


Expr = Annotated[
    Const | Column | Now | Lookup | Call | Aggregate | Resolved,
    Field(discriminator="op"),
]


def walk(expression: Expr) -> Iterator[Expr]:
    """The expression and everything below it in the same class.

    An aggregate's own expressions are over the joined class: see ``inner``.
    """
    # No other node has parts in the same class: lookups and aggregates are read through joins.
    yield expression
    if isinstance(expression, Call):
        for arg in expression.args:
            yield from walk(arg)
    elif isinstance(expression, Resolved):
        for argument in expression.resolver.args:
            yield from walk(argument.value)


def inner(aggregate: Aggregate) -> Iterator[Expr]:
    """Every expression inside an aggregate, all of them over the joined class."""
    for expression in aggregate.parts:
        yield from walk(expression)


def own_columns(expression: Expr) -> set[str]:
    """Features of the row's own class that the expression reads directly."""
    return {node.name for node in walk(expression) if isinstance(node, Column)}


# Expressions contain expressions: pydantic can resolve the names only now.
for _model in (Call, Aggregate, Argument, Resolver, Resolved):
    _model.model_rebuild()
