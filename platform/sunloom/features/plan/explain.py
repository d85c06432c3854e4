"""Text of a plan and of its expressions, near to how Chalk writes them."""

from __future__ import annotations

from sunloom.features.plan.expressions import (
    Aggregate,
    Call,
    Column,
    Const,
    Expr,
    Lookup,
    Now,
    Resolved,
    Window,
)
from sunloom.features.plan.feature_sets import Plan

_INFIX = frozenset({"+", "-", "*", "/", "%", "<", "<=", ">", ">=", "==", "!=", "&", "|"})
_HOUR_US = 3_600_000_000


def plan_text(plan: Plan) -> str:
    """The plan for people: each class with its key, event time, joins and features."""
    lines = [f"feature set {plan.feature_set}  fingerprint {plan.fingerprint}"]
    for item in plan.classes:
        lines += ["", f"{item.namespace}  key {item.key}, event time {item.time or 'none'}"]
        for join in item.joins:
            pairs = zip(join.own_keys, join.target_keys, strict=True)
            on = " and ".join(f"{own} = {join.target}.{other}" for own, other in pairs)
            lines.append(f"  {join.name}: {'many' if join.many else 'one'} {join.target} on {on}")
        for feature in item.features:
            if feature.kind == "scalar":
                formula = "read from the source"
                if feature.expression is not None:
                    formula = format_expression(feature.expression)
                dtype = f"{feature.dtype}{'?' * feature.nullable}"
                lines.append(f"  {feature.name}: {dtype} = {formula}")
    if plan.unavailable:
        lines += ["", "unavailable"]
        lines += [f"  {item.feature}: {item.why}" for item in plan.unavailable]
    return "\n".join(lines)


def format_expression(node: Expr) -> str:
    """The expression as text, near to how Chalk writes it."""
    if isinstance(node, Column):
        return f"_.{node.name}"
    if isinstance(node, Now):
        return "now"
    if isinstance(node, Const):
        return f"{node.value}µs" if node.dtype == "duration" else repr(node.value)
    if isinstance(node, Lookup):
        return f"_.{node.join}.{node.feature}"
    if isinstance(node, Aggregate):
        return _format_aggregate(node)
    if isinstance(node, Resolved):
        return _format_resolved(node)
    return _format_call(node)


def _format_call(node: Call) -> str:
    args = [format_expression(arg) for arg in node.args]
    if node.function in _INFIX and len(args) == 2:
        return f"({args[0]} {node.function} {args[1]})"
    if node.function == "struct_field" and isinstance(node.args[1], Const):
        return f"{args[0]}.{node.args[1].value}"
    if node.function == "cast":
        return f"cast({strip_brackets(args[0])}, {node.dtype})"
    return f"{node.function}({', '.join(strip_brackets(arg) for arg in args)})"


def strip_brackets(text: str) -> str:
    """The text of an expression without brackets around the whole of it."""
    if not text.startswith("("):
        return text
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        # `(a + b) * (c + d)` begins and ends with brackets that are not a pair.
        if depth == 0:
            return text[1:-1] if position == len(text) - 1 else text
    return text


def _format_resolved(node: Resolved) -> str:
    resolver = node.resolver
    args = [format_expression(argument.value) for argument in resolver.args]
    call = f"{resolver.fqn.rsplit('.', 1)[-1]}({', '.join(args)})"
    output = f".{node.output}" if len(resolver.outputs) > 1 else ""
    notes = ", batched" if resolver.shape == "frame" else ""
    notes += f", cron {resolver.cron}" if resolver.cron else ""
    return f"@{resolver.kind} {call}{output}  [{resolver.place}{notes}]"


def _format_aggregate(node: Aggregate) -> str:
    # Rows for a resolver have no aggregation to name.
    if node.kind == "rows" and isinstance(node.value, Call):
        columns = ", ".join(format_expression(column) for column in node.value.args)
        return f"_.{node.join}[{columns}]"
    parts = [format_expression(part) for part in (node.value, *node.where) if part is not None]
    if node.window.column is not None:
        parts.append(_format_window(node.window))
    argument = format_expression(node.by) if node.by is not None else node.argument
    return f"_.{node.join}[{', '.join(parts)}].{node.kind}({'' if argument is None else argument})"


def _format_window(window: Window) -> str:
    opening = "(-∞"
    if window.start is not None:
        opening = ("[" if window.start.inclusive else "(") + _format_time(window.start.ago_us)
    closing = "∞)"
    if window.end is not None:
        closing = _format_time(window.end.ago_us) + ("]" if window.end.inclusive else ")")
    return f"{window.column} in {opening}, {closing}"


def _format_time(ago_us: int) -> str:
    if ago_us == 0:
        return "now"
    # Windows are written in days or hours; anything else is exact in seconds.
    hours, rest = divmod(ago_us, _HOUR_US)
    if rest:
        return f"now - {ago_us / 1_000_000:g} s"
    return f"now - {hours // 24} d" if hours % 24 == 0 else f"now - {hours} h"
