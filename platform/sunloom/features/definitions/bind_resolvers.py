"""Binding of Python resolvers: what each takes and computes, and how it is called."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from chalk.features.resolver import RESOLVER_REGISTRY
from chalk.features.resolver import Resolver as ChalkResolver

from sunloom.errors import DefinitionError
from sunloom.features.definitions.load import is_inside
from sunloom.features.definitions.resolver_inputs import (
    bind_argument,
    bind_frame_arguments,
    is_frame,
)
from sunloom.features.definitions.scope import feature_dtype
from sunloom.features.definitions.unsupported_resolvers import check_supported, refuse_resolver
from sunloom.features.plan.expressions import (
    Aggregate,
    Expr,
    Lookup,
    Now,
    Output,
    Resolved,
    Resolver,
    inner,
    own_columns,
    walk,
)
from sunloom.features.plan.feature_sets import Catalogue, ClassPlan


@dataclass(frozen=True)
class ResolvedFeature:
    """A feature that a Python function computes: in training, and, if another one does, online."""

    expression: Expr
    online: Expr | None = None


def resolvers_of(module: ModuleType) -> list[Any]:
    """Every chalkpy resolver that the module and its submodules define, in source order."""
    # chalkpy's registry omits a function silently if another module has one of the same name, so
    # the modules themselves are searched too.
    candidates = [
        value
        for name, submodule in list(sys.modules.items())
        if is_inside(name, module)
        for value in vars(submodule).values()
        if isinstance(value, ChalkResolver)
    ]
    resolvers: list[Any] = []
    for raw in (*candidates, *RESOLVER_REGISTRY.get_all_resolvers()):
        if is_inside(str(raw.__module__), module) and not any(raw is known for known in resolvers):
            resolvers.append(raw)
    return sorted(resolvers, key=lambda raw: (raw.filename, raw.fn.__code__.co_firstlineno))


def find_resolver(source: str, module: ModuleType, fqn: str) -> Any:
    """The chalkpy resolver of that name, or None."""
    resolvers = (raw for raw in resolvers_of(module) if resolver_name(source, raw) == fqn)
    return next(resolvers, None)


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


def bind_resolvers(
    source: str, module: ModuleType, classes: Sequence[Any]
) -> Mapping[str, ResolvedFeature]:
    """Full names of features to the functions that compute them.

    Args:
        source: The definitions, as the user named them: workers import them by it.
        module: The imported definitions.
        classes: The features classes that are bound.

    Raises:
        DefinitionError: A resolver is not supported; names function, file and line.
    """
    offline: dict[str, Resolved] = {}
    online: dict[str, Resolved] = {}
    named: dict[str, Any] = {}
    for raw in resolvers_of(module):
        check_supported(raw)
        other = named.setdefault(resolver_name(source, raw), raw)
        if other is not raw:
            where = f"{other.filename}:{other.fn.__code__.co_firstlineno}"
            raise refuse_resolver(raw, f"the resolver at {where} has the same name", "Rename it.")
        bound = _bind(source, raw, classes)
        resolved = offline if bound.kind == "offline" else online
        owner = raw.flattened_output[0].namespace
        for output in bound.outputs:
            fqn = f"{owner}.{output.name}"
            if fqn in resolved:
                other = resolved[fqn].resolver
                raise refuse_resolver(
                    raw,
                    f"it gives {fqn}, which the {other.kind} resolver at {other.place} also gives",
                    "Leave one of them out; one @online and one @offline may stand side by side.",
                )
            resolved[fqn] = Resolved(resolver=bound, output=output.name, dtype=output.dtype)
    # Training uses the offline resolver if there is one; an online one alone serves both.
    features = {fqn: ResolvedFeature(node) for fqn, node in online.items()}
    features |= {fqn: ResolvedFeature(node, online.get(fqn)) for fqn, node in offline.items()}
    return features


def _bind(source: str, raw: Any, classes: Sequence[Any]) -> Resolver:
    outputs = [feature for feature in raw.flattened_output if not feature.is_autogenerated]
    owner = _owner_of(raw, outputs, classes)
    is_batched = is_frame(raw.output.features[0])
    if is_batched:
        args = bind_frame_arguments(raw, owner)
        # The key is returned only to match rows.
        outputs = [feature for feature in outputs if not feature.primary]
    else:
        names = inspect.signature(raw.fn).parameters
        args = tuple(
            bind_argument(raw, owner, name, feature, fallback)
            for name, feature, fallback in zip(names, raw.inputs, raw.default_args, strict=True)
        )
    kind: Literal["online", "offline"] = (
        "offline" if type(raw).__name__ == "OfflineResolver" else "online"
    )
    return Resolver(
        definitions=source,
        fqn=resolver_name(source, raw),
        # Part of the plan, so that its fingerprint changes with the function.
        digest=source_digest(raw),
        place=f"{raw.filename}:{raw.fn.__code__.co_firstlineno}",
        kind=kind,
        shape="frame" if is_batched else "row",
        args=args,
        outputs=tuple(_bind_output(raw, owner, feature) for feature in outputs),
        timeout_s=raw.timeout.total_seconds() if raw.timeout else None,
        batch_rows=raw.max_batch_size,
    )


def _owner_of(raw: Any, outputs: Sequence[Any], classes: Sequence[Any]) -> Any:
    if any(feature.path for feature in outputs):
        raise refuse_resolver(
            raw,
            "it gives features of a joined class",
            "Give features of one class: write a resolver with the joined class's own key.",
        )
    names = {feature.namespace for feature in outputs}
    owner = next((item for item in classes if item.namespace in names), None)
    if owner is None or len(names) != 1:
        raise refuse_resolver(
            raw,
            f"it gives features of {', '.join(sorted(names)) or 'no class'}",
            "Give features of one class of these definitions.",
        )
    return owner


def _bind_output(raw: Any, owner: Any, feature: Any) -> Output:
    if feature.primary or feature.is_feature_time:
        role = "key" if feature.primary else "event time"
        raise refuse_resolver(
            raw,
            f"it gives {feature.fqn}, the {role} of {owner.__name__}",
            f"List what it computes: `-> Features[{owner.__name__}.x, {owner.__name__}.y]`; rows "
            f"come from a source: `--source {owner.namespace}=PATH`.",
        )
    if feature.is_has_many or feature.is_has_one:
        raise refuse_resolver(
            raw,
            f"it gives the join {feature.fqn}",
            f"Give the joined rows as a source: `--source {feature.joined_class.namespace}=PATH`.",
        )
    if feature.underscore_expression is not None:
        raise refuse_resolver(
            raw,
            f"it gives {feature.fqn}, which has an expression",
            "Leave out the expression or the output.",
        )
    required = not (feature.typ.is_nullable or feature.converter.has_default)
    return Output(name=feature.name, dtype=feature_dtype(feature), required=required)


def check_inside_aggregates(catalogue: Catalogue) -> None:
    """Rows that are aggregated, or passed to a resolver, are computed once, for every as-of time.

    Raises:
        DefinitionError: A resolver's feature among them needs the as-of time or other rows.
    """
    classes = {item.namespace: item for item in catalogue.classes}
    for item in catalogue.classes:
        for feature in item.features:
            for expression in (feature.expression, feature.online):
                for node in walk(expression) if expression is not None else ():
                    if isinstance(node, Aggregate):
                        place = feature.resolver.place if feature.resolver else feature.fqn
                        _check_columns(classes[item.join(node.join).target], node, place)


def _check_columns(target: ClassPlan, aggregate: Aggregate, place: str) -> None:
    waiting = {name for part in inner(aggregate) for name in own_columns(part)}
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        expression = target.feature(name).expression
        if expression is None:
            continue
        if any(isinstance(node, Aggregate | Lookup | Now) for node in walk(expression)):
            raise DefinitionError(
                f"{place}: it takes rows of {target.class_name} with "
                f"{target.feature(name).fqn}, which depends on the as-of time or on other rows.",
                "Take features that are read, or computed from their own row.",
                target.feature(name).fqn,
            )
        waiting |= own_columns(expression) - seen
