"""The plan: what a feature set means, in our own frozen, hashable, JSON-serialisable classes.

Only this travels to workers. Names follow Chalk: an expression's columns are features of its own
class; inside an aggregate they are features of the joined class.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from sunloom.errors import NotFoundError

DType = Literal["int64", "float64", "bool", "string", "datetime", "duration", "null"]
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
]


class _Node(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Const(_Node):
    """A literal; datetimes and durations are whole microseconds."""

    op: Literal["const"] = "const"
    value: int | float | bool | str | None
    dtype: DType


class Column(_Node):
    """A feature of the row's class."""

    op: Literal["column"] = "column"
    name: str
    dtype: DType


class Now(_Node):
    """The moment that the row asks about."""

    op: Literal["now"] = "now"
    dtype: DType = "datetime"


class Lookup(_Node):
    """A feature of the one row that a has-one join leads to, as of the same moment."""

    op: Literal["lookup"] = "lookup"
    join: str
    feature: str
    dtype: DType


class Call(_Node):
    """A function of the table in ``functions``."""

    op: Literal["call"] = "call"
    function: str
    args: tuple[Expr, ...]
    dtype: DType


class Bound(_Node):
    """An end of a window: ``now`` less ``ago_us``, in it or not."""

    ago_us: int
    inclusive: bool


class Window(_Node):
    """Times that count: from ``start`` (None: no time is too old) to ``end`` (None: no end).

    ``column`` is the time that is compared; without one every row counts.
    """

    column: str | None = None
    start: Bound | None = None
    end: Bound | None = None


class Aggregate(_Node):
    """An aggregation over a has-many join."""

    op: Literal["aggregate"] = "aggregate"
    join: str
    kind: Aggregation
    value: Expr | None
    where: tuple[Expr, ...] = ()
    window: Window = Window()
    dtype: DType


Expr = Annotated[
    Const | Column | Now | Lookup | Call | Aggregate,
    Field(discriminator="op"),
]


class JoinPlan(_Node):
    """How rows of one class find rows of another."""

    name: str
    many: bool
    target: str
    own_keys: tuple[str, ...]
    target_keys: tuple[str, ...]


class Validation(_Node):
    """Limits of a feature's values; where ``strict``, a value outside them becomes null."""

    min: float | None = None
    max: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    strict: bool = False


class FeaturePlan(_Node):
    """One feature: read from the source where it has no expression, else computed."""

    name: str
    fqn: str
    dtype: DType
    nullable: bool
    kind: Literal["primary", "time", "scalar"] = "scalar"
    expression: Expr | None = None
    default: Const | None = None
    validations: tuple[Validation, ...] = ()
    window_s: int | None = None
    description: str | None = None
    owner: str | None = None
    tags: tuple[str, ...] = ()


class ClassPlan(_Node):
    """One features class."""

    namespace: str
    class_name: str
    key: str
    time: str | None
    features: tuple[FeaturePlan, ...]
    joins: tuple[JoinPlan, ...] = ()

    def feature(self, name: str) -> FeaturePlan:
        """The feature of that name."""
        found = next((feature for feature in self.features if feature.name == name), None)
        if found is None:
            raise NotFoundError(
                f"{self.namespace} has no feature {name!r}.",
                known=[feature.name for feature in self.features],
                name=name,
            )
        return found

    def join(self, name: str) -> JoinPlan:
        """The join of that name."""
        return next(join for join in self.joins if join.name == name)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Scalar features in order, without key and event time."""
        return tuple(feature.name for feature in self.features if feature.kind == "scalar")


class Plan(_Node):
    """A feature set and every class that it needs."""

    feature_set: str
    namespace: str
    outputs: tuple[str, ...]
    classes: tuple[ClassPlan, ...]

    def of(self, namespace: str) -> ClassPlan:
        """The class under that namespace."""
        return next(item for item in self.classes if item.namespace == namespace)

    @property
    def root(self) -> ClassPlan:
        """The class that the feature set is about."""
        return self.of(self.namespace)

    @property
    def fingerprint(self) -> str:
        """Changes when the meaning may have changed."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


class Catalogue(_Node):
    """Every features class of a definitions module, bound."""

    classes: tuple[ClassPlan, ...]

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Names of the feature sets."""
        return tuple(item.namespace for item in self.classes)

    def plan(self, feature_set: str) -> Plan:
        """The plan of all scalar features of a class.

        Raises:
            NotFoundError: No class has that namespace; lists the known ones.
        """
        if feature_set not in self.namespaces:
            raise NotFoundError(
                f"There is no feature set {feature_set!r}.",
                known=self.namespaces,
                name=feature_set,
                param="feature_set",
            )
        by_name = {item.namespace: item for item in self.classes}
        needed = _reachable(by_name, feature_set)
        return Plan(
            feature_set=feature_set,
            namespace=feature_set,
            outputs=by_name[feature_set].outputs,
            classes=tuple(item for item in self.classes if item.namespace in needed),
        )


def walk(expression: Expr) -> Iterator[Expr]:
    """The expression and everything below it; an aggregate's inside is the other class's."""
    yield expression
    if isinstance(expression, Call):
        for arg in expression.args:
            yield from walk(arg)


def inner(aggregate: Aggregate) -> Iterator[Expr]:
    """Every expression inside an aggregate."""
    for expression in (aggregate.value, *aggregate.where):
        if expression is not None:
            yield from walk(expression)


def own_columns(expression: Expr) -> set[str]:
    """Features of the row's own class that the expression reads directly."""
    return {node.name for node in walk(expression) if isinstance(node, Column)}


def _reachable(classes: dict[str, ClassPlan], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        namespace = waiting.pop()
        if namespace in seen:
            continue
        seen.add(namespace)
        item = classes[namespace]
        used = {
            node.join
            for feature in item.features
            if feature.expression is not None
            for node in walk(feature.expression)
            if isinstance(node, Aggregate | Lookup)
        }
        waiting.extend(item.join(name).target for name in used)
    return seen


for _model in (Call, Aggregate, FeaturePlan, ClassPlan, Plan, Catalogue):
    _model.model_rebuild()
