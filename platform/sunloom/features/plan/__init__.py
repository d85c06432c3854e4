"""The plan: what a feature set means, in our own frozen, hashable, JSON-serialisable classes.

Only this travels to workers.
"""

from sunloom.features.dtypes import DType
from sunloom.features.plan.classes import (
    Catalogue,
    ClassPlan,
    FeaturePlan,
    JoinPlan,
    Plan,
    Validation,
)
from sunloom.features.plan.expressions import (
    Aggregate,
    Aggregation,
    Argument,
    Bound,
    Call,
    Column,
    Const,
    Expr,
    Lookup,
    Now,
    Output,
    Resolved,
    Resolver,
    Scalar,
    Window,
    inner,
    own_columns,
    walk,
)

__all__ = [
    "Aggregate",
    "Aggregation",
    "Argument",
    "Bound",
    "Call",
    "Catalogue",
    "ClassPlan",
    "Column",
    "Const",
    "DType",
    "Expr",
    "FeaturePlan",
    "JoinPlan",
    "Lookup",
    "Now",
    "Output",
    "Plan",
    "Resolved",
    "Resolver",
    "Scalar",
    "Validation",
    "Window",
    "inner",
    "own_columns",
    "walk",
]
