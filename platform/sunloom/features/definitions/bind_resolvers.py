"""Binding of Python resolvers: what each takes and computes; what is not supported is refused."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chalk.features import DataFrame, Feature
from chalk.features.filter import Filter, TimeDelta

from sunloom.errors import DefinitionError
from sunloom.features.definitions.declarations import feature_dtype
from sunloom.features.definitions.failures import Failures, dependent_reason
from sunloom.features.definitions.statements import FailedStatement
from sunloom.features.expressions.literals import constant
from sunloom.features.plan.dtypes import DType, ListType, StructField, StructType
from sunloom.features.plan.expressions import (
    Aggregate,
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
    Window,
)
from sunloom.features.plan.feature_sets import ClassPlan

_AS_SOURCE = "Give its rows as a source: `--source NAME=PATH`, or `feature_store` in the recipe."
_LIST_COLUMNS = "List the columns it reads: `DataFrame[User.id, User.x]`."


@dataclass(frozen=True)
class ResolvedFeature:
    """A feature that a Python function computes: in training, and, if another one does, online."""

    expression: Expr
    online: Expr | None = None


def bind_resolvers(
    source: str,
    resolvers: Sequence[Any],
    outlines: Mapping[str, ClassPlan],
    failed: Sequence[FailedStatement],
    failures: Failures,
) -> Mapping[str, ResolvedFeature]:
    """Full names of features to the functions that compute them.

    Args:
        source: The definitions, as the user named them: workers import them by it.
        resolvers: The chalkpy resolvers of the definitions.
        outlines: Namespace to the class, without what computes its features.
        failed: Statements of the definitions that could not be executed.
        failures: Receives what resolvers give that cannot be bound, with function, file and line.
    """
    offline: dict[str, Resolved] = {}
    online: dict[str, Resolved] = {}
    named: dict[str, Any] = {}
    for statement, error in failed:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            names = _computed_names(_annotated_outputs(statement, outlines), outlines)
            for name in names or [statement.name]:
                failures.add(error, name)
    for raw in resolvers:
        binder = ResolverBinder(source, raw, outlines, failures)
        other = named.setdefault(resolver_name(source, raw), raw)
        try:
            binder.check_supported()
            if other is not raw:
                place = _place(other)
                raise binder.refuse(f"the resolver at {place} has the same name", "Rename it.")
            bound = binder.bind()
            resolved = offline if bound.kind == "offline" else online
            outputs = {f"{raw.flattened_output[0].namespace}.{o.name}": o for o in bound.outputs}
            if (twice := next((fqn for fqn in outputs if fqn in resolved), None)) is not None:
                earlier = resolved[twice].resolver
                raise binder.refuse(
                    f"it gives {twice}, which the {earlier.kind} resolver at {earlier.place} also "
                    "gives",
                    "Leave one of them out; one @online and one @offline may stand side by side.",
                )
        except DefinitionError as error:
            # Without the function they would be read from a source, and null there.
            for name in binder.output_names() or [resolver_name(source, raw)]:
                failures.add(error, name)
            continue
        for fqn, output in outputs.items():
            resolved[fqn] = Resolved(resolver=bound, output=output.name, dtype=output.dtype)
    # Training uses the offline resolver if there is one; an online one alone serves both.
    features = {fqn: ResolvedFeature(node) for fqn, node in online.items()}
    features |= {fqn: ResolvedFeature(node, online.get(fqn)) for fqn, node in offline.items()}
    return features


def resolver_name(source: str, raw: Any) -> str:
    """Chalk's name of the function: its module's or file's name, and its own."""
    # The name of a file's module contains a digest of path and content, which differ by machine.
    return f"{Path(source).stem}.{raw.name}" if source.endswith(".py") else str(raw.fqn)


def source_digest(resolver: Any) -> str:
    """A digest of the function's source text."""
    try:
        # Text rather than byte code, which differs between versions of Python.
        text = inspect.getsource(resolver.fn)
    except (OSError, TypeError):
        # Typed into an interpreter, for one: there is no source.
        text = resolver.fqn
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class ResolverBinder:
    """Binds one resolver.

    Args:
        source: The definitions, as the user named them.
        raw: The chalkpy resolver.
        outlines: Namespace to the class, without what computes its features.
        failures: What cannot be bound so far.
    """

    def __init__(
        self, source: str, raw: Any, outlines: Mapping[str, ClassPlan], failures: Failures
    ) -> None:
        self._source = source
        self._raw = raw
        self._outlines = outlines
        self._failures = failures

    def refuse(self, construct: str, instead: str) -> DefinitionError:
        """The error of a resolver that cannot be bound.

        Args:
            construct: What is not supported.
            instead: What to write instead.
        """
        function = self._raw.fn
        file, line = function.__code__.co_filename, function.__code__.co_firstlineno
        reason = f"resolver {function.__name__!r}: {construct}"
        return DefinitionError(
            f"{file}:{line}: {reason}.",
            instead,
            self._raw.fqn,
            file=file,
            line=line,
            reason=reason,
        )

    def output_names(self) -> Sequence[str]:
        """Full names of the features that it computes, even where it cannot be bound."""
        try:
            names = [f"{f.namespace}.{f.name}" for f in self._raw.flattened_output]
        except Exception:  # noqa: BLE001 - chalkpy raises several kinds
            names = self._annotated_names()
        return _computed_names(names, self._outlines)

    def _annotated_names(self) -> list[str]:
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(self._raw.fn)))
        except (OSError, TypeError, SyntaxError):
            return []
        return _annotated_outputs(tree.body[0], self._outlines)

    def check_supported(self) -> None:
        """Refuse resolvers that are not plain functions of features.

        Raises:
            DefinitionError: Names function, file, line, and what to write instead.
        """
        raw, kind = self._raw, type(self._raw).__name__
        if kind == "StreamResolver":
            raise self.refuse(
                "stream resolvers are not run",
                "Name the topic under `feature_store.streaming_source` in the recipe.",
            )
        if kind not in ("OnlineResolver", "OfflineResolver"):
            raise self.refuse(f"a {kind} is not run", "Write @online or @offline.")
        if raw.is_sql_file_resolver or raw.data_sources:
            raise self.refuse("SQL resolvers are not run", _AS_SOURCE)
        self._check_annotations()
        for name, (construct, instead) in _SETTINGS.items():
            if getattr(raw, name, None):
                raise self.refuse(construct(getattr(raw, name)), instead)
        # A generator's body runs only when it is iterated: a call would succeed and give no value.
        if inspect.isgeneratorfunction(raw.fn) or inspect.isasyncgenfunction(raw.fn):
            raise self.refuse(
                "it yields", "Return the value, or one DataFrame of all rows, at once."
            )
        if not raw.inputs:
            raise self.refuse("it has no inputs: it gives whole tables", _AS_SOURCE)

    def _check_annotations(self) -> None:
        try:
            # chalkpy reads the annotations only when these are first used.
            _, output = self._raw.inputs, self._raw.output
        except (TypeError, ValueError, NameError, AttributeError, AssertionError) as error:
            reason = str(error).strip() or type(error).__name__
            raise self.refuse(
                f"its annotations cannot be read: {reason.rstrip('.')}",
                "Annotate inputs and output with features: `def f(x: User.x) -> User.y`.",
            ) from error
        assert output is not None

    def bind(self) -> Resolver:
        """The resolver of a plan.

        Raises:
            DefinitionError: An input or output is not what a row of its class has.
        """
        raw = self._raw
        outputs = [feature for feature in raw.flattened_output if not feature.is_autogenerated]
        owner = self._owner_of(outputs)
        is_batched = _is_frame(raw.output.features[0])
        if is_batched:
            args = self._bind_frame(owner)
            # The key is returned only to match rows.
            outputs = [feature for feature in outputs if not feature.primary]
        else:
            names = inspect.signature(raw.fn).parameters
            args = tuple(
                self._bind_argument(owner, name, feature, fallback)
                for name, feature, fallback in zip(names, raw.inputs, raw.default_args, strict=True)
            )
        return Resolver(
            definitions=self._source,
            fqn=resolver_name(self._source, raw),
            # Part of the plan, so that its fingerprint changes with the function.
            digest=source_digest(raw),
            place=_place(raw),
            kind="offline" if type(raw).__name__ == "OfflineResolver" else "online",
            shape="frame" if is_batched else "row",
            args=args,
            outputs=tuple(self._bind_output(owner, f) for f in self._available(outputs)),
            timeout_s=raw.timeout.total_seconds() if raw.timeout else None,
            batch_rows=raw.max_batch_size,
            cron=_schedule_text(raw.cron),
        )

    def _available(self, outputs: Sequence[Any]) -> Sequence[Any]:
        """Those that can be bound: one that cannot takes no other with it.

        Raises:
            DefinitionError: None of them can.
        """
        available = [feature for feature in outputs if feature.fqn not in self._failures]
        if available or not outputs:
            return available
        failure = self._failures[outputs[0].fqn]
        raise self.refuse(f"it gives {failure.feature} ({failure.why})", failure.hint)

    def _owner_of(self, outputs: Sequence[Any]) -> ClassPlan:
        if any(feature.path for feature in outputs):
            raise self.refuse(
                "it gives features of a joined class",
                "Give features of one class: write a resolver with the joined class's own key.",
            )
        names = sorted({feature.namespace for feature in outputs})
        if len(names) != 1 or names[0] not in self._outlines:
            raise self.refuse(
                f"it gives features of {', '.join(names) or 'no class'}",
                "Give features of one class of these definitions.",
            )
        return self._outlines[names[0]]

    def _bind_output(self, owner: ClassPlan, feature: Any) -> Output:
        name = owner.class_name
        if feature.primary or feature.is_feature_time:
            role = "key" if feature.primary else "event time"
            raise self.refuse(
                f"it gives {feature.fqn}, the {role} of {name}",
                f"List what it computes: `-> Features[{name}.x, {name}.y]`; rows "
                f"come from a source: `--source {owner.namespace}=PATH`.",
            )
        if feature.is_has_many or feature.is_has_one:
            raise self.refuse(
                f"it gives the join {feature.fqn}",
                "Give the joined rows as a source: "
                f"`--source {feature.joined_class.namespace}=PATH`.",
            )
        if feature.underscore_expression is not None:
            raise self.refuse(
                f"it gives {feature.fqn}, which has an expression",
                "Leave out the expression or the output.",
            )
        required = not (feature.typ.is_nullable or feature.converter.has_default)
        return Output(name=feature.name, dtype=self._dtype_of(feature), required=required)

    def _bind_argument(self, owner: ClassPlan, name: str, feature: Any, fallback: Any) -> Argument:
        """One parameter of a resolver that is called once per row.

        Args:
            owner: The features class that the resolver gives features of.
            name: The parameter.
            feature: The chalkpy feature that annotates it.
            fallback: chalkpy's default of the parameter, or None if it has none.
        """
        if _is_frame(feature):
            raise self.refuse(
                f"parameter {name!r} is a DataFrame, the output is not",
                f"Read a has-many: `{name}: {owner.class_name}.many[Other.x]`.",
            )
        if feature.fqn == "__chalk__.now":
            return Argument(name=name, value=Now(), required=True)
        if feature.is_has_many:
            # Without rows it is an empty frame, never null.
            return Argument(name=name, value=self._bind_rows(owner, feature), required=False)
        nullable = feature.typ.is_nullable or fallback is not None
        return Argument(
            name=name,
            value=self._bind_value(owner, name, feature),
            required=not nullable,
            default=self._bind_default(name, fallback),
        )

    def _bind_frame(self, owner: ClassPlan) -> tuple[Argument, ...]:
        """Columns of the one frame that a batched resolver takes, its key among them."""
        raw, name = self._raw, owner.class_name
        if len(raw.inputs) != 1 or not _is_frame(raw.inputs[0]):
            raise self.refuse(
                "it gives a DataFrame from single values",
                f"Take one as well: `df: DataFrame[{name}.id, …]`; rows of another class "
                "come from a source: `--source NAME=PATH`.",
            )
        frame = raw.inputs[0]
        if frame.filters:
            raise self.refuse(
                "its DataFrame is filtered in the annotation", "Filter in the function."
            )
        columns = [feature for feature in frame.columns if not feature.is_autogenerated]
        foreign = [f.fqn for f in columns if f.namespace != owner.namespace and not f.path]
        if foreign:
            raise self.refuse(
                f"it takes rows of another class ({foreign[0]}) than it gives",
                f"Read a has-many: `def f(rows: {name}.many[Other.x]) -> {name}.y`.",
            )
        keys = [feature for feature in columns if feature.primary and not feature.path]
        output_keys = [feature for feature in raw.flattened_output if feature.primary]
        # A function may drop or reorder rows, so results are joined to inputs by the key.
        if not keys or not output_keys:
            verb = "take" if not keys else "give"
            raise self.refuse(
                f"it does not {verb} the key of {name}",
                "Rows are matched by it: "
                "`DataFrame[User.id, User.x] -> DataFrame[User.id, User.y]`.",
            )
        return tuple(
            Argument(
                name=feature.root_fqn,
                value=self._bind_value(owner, feature.name, feature),
                # Nulls in a frame are left to the function; a row without a key cannot be matched.
                required=bool(feature.primary and not feature.path),
            )
            for feature in columns
        )

    def _bind_value(self, owner: ClassPlan, name: str, feature: Any) -> Expr:
        if feature.is_has_one or feature.is_has_many or feature.is_windowed:
            raise self.refuse(f"input {name!r} is {feature.fqn}, which is no value", _LIST_COLUMNS)
        # The path is the has-one joins that lead to the feature.
        if len(feature.path) == 1 and feature.path[0].parent.namespace == owner.namespace:
            join = feature.path[0].parent
            return Lookup(join=join.name, feature=feature.name, dtype=self._dtype_of(feature))
        if feature.path or feature.namespace != owner.namespace or feature.is_autogenerated:
            raise self.refuse(
                f"parameter {name!r} is {feature.root_fqn}, which is no feature of "
                f"{owner.class_name} and not one has-one away",
                f"Give {owner.class_name} a feature of that value, and take it.",
            )
        return Column(name=feature.name, dtype=self._dtype_of(feature))

    def _bind_default(self, name: str, fallback: Any) -> Const | None:
        if fallback is None or fallback.default_value is None:
            return None
        default = constant(fallback.default_value)
        if default is None:
            raise self.refuse(
                f"the default {fallback.default_value!r} of {name!r} has no plain form",
                "Use None, a number, a string, a boolean, a timedelta or a UTC datetime.",
            )
        return default

    def _bind_rows(self, owner: ClassPlan, many: Any) -> Aggregate:
        """The rows of a has-many up to the as-of time."""
        frame = many.typ.as_dataframe()
        if many.path or many.namespace != owner.namespace:
            raise self.refuse(
                f"it takes {many.root_fqn}, a has-many of another class",
                f"Take one of {owner.class_name}.",
            )
        if frame.__limit__ is not None:
            raise self.refuse(
                f"the rows of {many.fqn} are limited in the annotation",
                "Limit them in the function.",
            )
        # Filters are applied when the function is called, so their columns are read too.
        compared = [f for item in frame.filters for f in self._compared_features(many, item)]
        read = {f.fqn: f for f in (*frame.columns, *compared) if not f.is_autogenerated}
        for f in read.values():
            if f.is_has_many or f.is_has_one or f.is_windowed or f.path:
                raise self.refuse(f"{f.root_fqn} is no column of {many.fqn}", _LIST_COLUMNS)
        columns = tuple(Column(name=f.name, dtype=self._dtype_of(f)) for f in read.values())
        time = self._outlines[many.joined_class.namespace].time
        row = StructType(fields=tuple(StructField(name=c.name, dtype=c.dtype) for c in columns))
        return Aggregate(
            join=many.name,
            kind="rows",
            value=Call(function="rows", args=columns, dtype=row),
            # Rows without an event time are visible at every as-of time.
            window=Window(column=time, end=Bound(ago_us=0, inclusive=True) if time else None),
            dtype=ListType(item=row),
        )

    def _compared_features(self, many: Any, condition: Any) -> Iterator[Any]:
        """Features that a filter in the annotation compares."""
        if isinstance(condition, Filter):
            yield from self._compared_features(many, condition.lhs)
            yield from self._compared_features(many, condition.rhs)
        elif isinstance(condition, Feature) and condition.namespace == many.joined_class.namespace:
            yield condition
        elif isinstance(condition, Feature | TimeDelta):
            raise self.refuse(
                f"a filter of {many.fqn} compares more than its rows' values with literals",
                "Filter by time in the function; `now: chalk.Now` is the as-of time.",
            )

    def _dtype_of(self, feature: Any) -> DType:
        try:
            return feature_dtype(feature)
        except DefinitionError as error:
            reason = dependent_reason(error.param, error.why)
            raise self.refuse(reason, error.hint) from error


def _annotated_outputs(statement: ast.stmt, outlines: Mapping[str, ClassPlan]) -> list[str]:
    """Full names of features in the text of a function's return annotation."""
    returns = getattr(statement, "returns", None)
    namespaces = {item.class_name: item.namespace for item in outlines.values()}
    return [
        f"{namespaces[node.value.id]}.{node.attr}"
        for node in (ast.walk(returns) if returns is not None else ())
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in namespaces
    ]


def _computed_names(names: Sequence[str], outlines: Mapping[str, ClassPlan]) -> list[str]:
    """Those of features that resolvers compute: keys and event times come from a source."""
    read = {f"{i.namespace}.{name}" for i in outlines.values() for name in (i.key, i.time)}
    return [name for name in names if name not in read]


def _is_frame(annotation: Any) -> bool:
    """Whether the annotation is a ``DataFrame[…]`` type rather than a feature."""
    return isinstance(annotation, type) and issubclass(annotation, DataFrame)


def _schedule_text(cron: Any) -> str | None:
    """A schedule as it is written, with the functions that choose its rows."""
    if not cron:
        return None
    choices = [
        f"{name} {function.__name__}"
        for name in ("filter", "sample")
        if (function := getattr(cron, name, None)) is not None
    ]
    return ", ".join([str(getattr(cron, "schedule", cron)), *choices])


def _place(raw: Any) -> str:
    return f"{raw.filename}:{raw.fn.__code__.co_firstlineno}"


# Settings that chalkpy accepts, and that would be ignored here.
_SETTINGS: Mapping[str, tuple[Callable[[Any], str], str]] = {
    "static": (
        lambda _: "static resolvers build plans of Chalk's own engine",
        "Leave out `static=True`, or write an expression.",
    ),
    "environment": (
        lambda names: f"environment={names!r} has no meaning here",
        "Leave it out, or import the module for that environment alone.",
    ),
    "tags": (
        lambda tags: f"tags={tags!r} would choose it by request, which has no meaning here",
        "Leave them out.",
    ),
    "venv": (lambda venv: f"venv={venv!r} is not made", "Install its packages on the workers."),
    "postprocessing": (lambda _: "postprocessing is not run", "Do it in the function."),
    "incremental_settings": (lambda _: "incremental resolvers are not run", _AS_SOURCE),
    "handle_duplicate_outputs": (
        lambda value: f"handle_duplicate_outputs={value!r} has no meaning here",
        "Give each key once: a key given twice is an error.",
    ),
}
