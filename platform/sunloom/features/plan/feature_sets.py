"""Feature sets: features, the classes that declare them, and the plan that computes a set.

Every table of the engine shares the columns ``EVENT_TIME`` and ``NOW``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from sunloom.errors import DefinitionError, NotFoundError, place_of
from sunloom.features.plan.dtypes import DType, Node
from sunloom.features.plan.expressions import (
    Aggregate,
    Const,
    Expr,
    Lookup,
    Resolved,
    Resolver,
    Scalar,
    own_columns,
    walk,
)

EVENT_TIME = "event_time"
"""Event time of a source row, as-of time of a spine's row: UTC, microseconds."""

NOW = "__now__"
"""As-of time of a query row inside the engine: no feature's name begins with an underscore."""


class JoinPlan(Node):
    """How rows of one class find rows of another."""

    name: str
    many: bool
    target: str
    own_keys: tuple[str, ...]
    target_keys: tuple[str, ...]


class Validation(Node):
    """Limits of a feature's values: a violation is counted, and where ``strict`` becomes null.

    Lengths are characters of a string or values of a list; ``contains`` is a part of the string or
    a value of the list.
    """

    min: float | None = None
    max: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    contains: Scalar = None
    strict: bool = False


class FeaturePlan(Node):
    """One feature: read from the source if it has no expression, else computed."""

    name: str
    fqn: str
    dtype: DType
    nullable: bool
    kind: Literal["primary", "time", "scalar"] = "scalar"
    expression: Expr | None = None
    online: Expr | None = None
    """The expression of online reads, if an online and an offline resolver compute the feature."""
    max_staleness_us: int | None = None
    """How old a value from a source may be as of the query's time; None: any age.

    It bounds lookups of an entity's state. Aggregated rows are events: their windows bound them.
    """
    default: Const | None = None
    validations: tuple[Validation, ...] = ()
    window_s: int | None = None
    description: str | None = None
    owner: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def resolver(self) -> Resolver | None:
        """The Python function that computes the feature, if one does."""
        return self.expression.resolver if isinstance(self.expression, Resolved) else None


@dataclass(frozen=True)
class Unavailable:
    """What could not be bound: a feature, or a whole class, resolver or file of definitions.

    Attributes:
        feature: Its full name; a class's namespace, a resolver's name or a file.
        construct: The line of source.
        file: Where it stands.
        line: Its line, if it is known.
        reason: Why it cannot be bound.
        hint: What to write instead.
    """

    feature: str
    construct: str
    file: str
    line: int | None
    reason: str
    hint: str = ""

    @property
    def namespace(self) -> str:
        """The class that it belongs to."""
        return self.feature.split(".")[0]

    @property
    def place(self) -> str:
        """``file:line``."""
        return place_of(self.file, self.line)

    @property
    def why(self) -> str:
        """Place and reason."""
        return f"{self.place}: {self.reason}"

    def error(self) -> DefinitionError:
        """The refusal of whoever asks for it."""
        subject = f"{self.feature} is unavailable"
        return DefinitionError.of_construct(
            self.file, self.line, self.reason, name=self.feature, subject=subject, hint=self.hint
        )


class ClassPlan(Node):
    """One features class."""

    namespace: str
    class_name: str
    key: str
    time: str | None
    features: tuple[FeaturePlan, ...]
    joins: tuple[JoinPlan, ...] = ()

    def feature(self, name: str) -> FeaturePlan:
        """The feature of that name."""
        feature = next((feature for feature in self.features if feature.name == name), None)
        if feature is None:
            raise NotFoundError(
                f"{self.namespace} has no feature {name!r}.",
                known=[feature.name for feature in self.features],
                name=name,
            )
        return feature

    def row_features(self, names: Iterable[str]) -> list[FeaturePlan]:
        """The named features and all others that they are computed from in the same row."""
        needed: dict[str, FeaturePlan] = {}
        waiting = list(names)
        while waiting:
            feature = self.feature(waiting.pop())
            if feature.name not in needed:
                needed[feature.name] = feature
                waiting += [] if feature.expression is None else own_columns(feature.expression)
        return list(needed.values())

    def join(self, name: str) -> JoinPlan:
        """The join of that name."""
        return next(join for join in self.joins if join.name == name)

    def for_online(self) -> ClassPlan:
        """The class of online reads: features that have an online resolver use it."""
        features = tuple(
            f if f.online is None else f.model_copy(update={"expression": f.online, "online": None})
            for f in self.features
        )
        return self.model_copy(update={"features": features})

    @property
    def outputs(self) -> tuple[str, ...]:
        """Scalar features in order, without key and event time."""
        return tuple(feature.name for feature in self.features if feature.kind == "scalar")


class Plan(Node):
    """A feature set and every class that it needs."""

    feature_set: str
    namespace: str
    outputs: tuple[str, ...]
    classes: tuple[ClassPlan, ...]
    unavailable: tuple[Unavailable, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Features of these classes that could not be bound, and classes that could not."""

    def refuse_unavailable(self, names: Iterable[str]) -> None:
        """Refuse features of the set that could not be bound.

        Raises:
            DefinitionError: Names the first of them, with file, line and reason.
        """
        if not self.unavailable:
            return
        unavailable = {item.feature: item for item in self.unavailable}
        for name in names:
            if (item := unavailable.get(f"{self.namespace}.{name}")) is not None:
                raise item.error()

    @property
    def unavailable_summary(self) -> dict[str, dict[str, str]]:
        """``unavailable`` for results: feature to place and reason; empty where all is bound."""
        reasons = {item.feature: item.why for item in self.unavailable}
        return {"unavailable": reasons} if reasons else {}

    def class_plan(self, namespace: str) -> ClassPlan:
        """The class under that namespace."""
        return next(item for item in self.classes if item.namespace == namespace)

    @property
    def root(self) -> ClassPlan:
        """The class that the feature set is about."""
        return self.class_plan(self.namespace)

    def for_online(self) -> Plan:
        """The plan of online reads: features that have an online resolver use it."""
        return self.model_copy(update={"classes": tuple(c.for_online() for c in self.classes)})

    @property
    def fingerprint(self) -> str:
        """Changes whenever the meaning may have changed; part of stored keys and metadata."""
        # 64 bits: enough to tell the plans of one store apart, and short enough to print.
        # What cannot be bound computes nothing: its lines may move without another meaning.
        text = self.model_dump_json(exclude={"unavailable"})
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Catalogue(Node):
    """Every features class of a definitions module, bound."""

    classes: tuple[ClassPlan, ...]
    unavailable: tuple[Unavailable, ...] = ()
    """What could not be bound, causes before what depends on them."""

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Names of the feature sets."""
        return tuple(item.namespace for item in self.classes)

    @property
    def has_outputs(self) -> bool:
        """Whether any feature can be computed; of complete definitions, keys alone are enough."""
        return any(item.outputs for item in self.classes) or not self.unavailable

    def check_complete(self) -> None:
        """Check that everything is bound.

        Raises:
            DefinitionError: Names the first construct that is not, with file, line and reason.
        """
        if self.unavailable:
            raise self.unavailable[0].error()

    def plan(self, feature_set: str) -> Plan:
        """The plan of all scalar features of a class that are bound.

        Raises:
            NotFoundError: No class has that namespace; lists the known ones.
            DefinitionError: None of the class's features is bound.
        """
        lost = [item for item in self.unavailable if item.namespace == feature_set]
        known = feature_set in self.namespaces
        if lost and not (known and self._by_name[feature_set].outputs):
            raise lost[0].error()
        if not known:
            raise NotFoundError(
                f"There is no feature set {feature_set!r}.",
                known=self.namespaces,
                name=feature_set,
                param="feature_set",
            )
        by_name = self._by_name
        # Classes that nothing reaches stay out, so that editing them changes no fingerprint.
        needed = _reachable_namespaces(by_name, feature_set)
        unavailable = [item for item in self.unavailable if item.namespace in needed]
        if unavailable:
            # A source may be given for a class that only an unavailable feature reads.
            for item in unavailable:
                for join in by_name[item.namespace].joins:
                    needed |= _reachable_namespaces(by_name, join.target)
            unavailable = [
                item
                for item in self.unavailable
                if item.namespace in needed or item.namespace not in by_name
            ]
        return Plan(
            feature_set=feature_set,
            namespace=feature_set,
            outputs=by_name[feature_set].outputs,
            classes=tuple(item for item in self.classes if item.namespace in needed),
            unavailable=tuple(unavailable),
        )

    @property
    def _by_name(self) -> dict[str, ClassPlan]:
        return {item.namespace: item for item in self.classes}


def _reachable_namespaces(classes: dict[str, ClassPlan], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        namespace = waiting.pop()
        if namespace in seen:
            continue
        seen.add(namespace)
        item = classes[namespace]
        # Both expressions of a feature: one plan is stored for training and for online reads.
        used = {
            node.join
            for feature in item.features
            for expression in (feature.expression, feature.online)
            if expression is not None
            for node in walk(expression)
            if isinstance(node, Aggregate | Lookup)
        }
        waiting.extend(item.join(name).target for name in used)
    return seen
