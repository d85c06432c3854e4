"""Cards of a plan's picture: sources, joins and features, and which needs which."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from sunloom.features.plan.explain import format_expression, strip_brackets
from sunloom.features.plan.expressions import (
    Aggregate,
    Expr,
    Lookup,
    Resolved,
    inner,
    own_columns,
    walk,
)
from sunloom.features.plan.feature_sets import ClassPlan, FeaturePlan, Plan

Kind = Literal["source", "join", "aggregate", "lookup", "expression", "resolver"]
CardId = tuple[str, str, str]
"""Kind, namespace and name."""

# chalkpy names the feature of one window `x__3600__`.
_WINDOW = re.compile(r"__\d+__$")
_SOURCE_LOCATION = re.compile(r"  \[[^\]]*\]$")
_DAY_S, _HOUR_S = 86_400, 3_600


@dataclass
class Card:
    """One box of the picture.

    Attributes:
        kind: Decides its colour.
        title: Its first line, in bold where it is an output.
        lines: The lines below the title.
        is_output: Whether it is a feature of the feature set.
        needs: Cards that it is computed from.
        level: The longest path of needs below it; its column in the picture.
    """

    kind: Kind
    title: str
    lines: list[str] = field(default_factory=list)
    is_output: bool = False
    needs: set[CardId] = field(default_factory=set)
    level: int = 0


def cards_of(plan: Plan) -> dict[CardId, Card]:
    """Every card that the plan's outputs need, levels set; windows of one feature share a card."""
    builder = _CardBuilder(plan)
    for name in plan.outputs:
        builder.visit(plan.root, name)
    builder.mark_outputs()
    _set_levels(builder.cards)
    return builder.cards


class _CardBuilder:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.cards: dict[CardId, Card] = {}
        self._seen: set[tuple[str, str]] = set()

    def visit(self, item: ClassPlan, name: str) -> CardId:
        """The card that shows the feature, and all cards that it needs."""
        feature = item.feature(name)
        if feature.expression is None:
            return self._add_source_line(item, _describe_column(item, feature))
        card_id = ("feature", item.namespace, _card_name(feature))
        if (item.namespace, name) in self._seen:
            return card_id
        self._seen.add((item.namespace, name))
        if card_id not in self.cards:
            self.cards[card_id] = self._feature_card(item, feature, feature.expression)
        elif feature.window_s is None:
            # Another output of the same function.
            self.cards[card_id].title += f", {name}"
        card = self.cards[card_id]
        if feature.window_s is not None:
            card.lines[0] = _add_window(card.lines[0], feature.window_s)
        card.needs |= self._visit_needs(item, feature.expression)
        return card_id

    def mark_outputs(self) -> None:
        """Mark the cards of the feature set's own features."""
        root = self.plan.root
        names = {_card_name(root.feature(name)) for name in self.plan.outputs}
        for (kind, namespace, name), card in self.cards.items():
            card.is_output = (
                kind == "feature" and namespace == self.plan.namespace and name in names
            )

    def _title(self, item: ClassPlan, name: str) -> str:
        return name if item.namespace == self.plan.namespace else f"{item.namespace}.{name}"

    def _add_source_line(self, item: ClassPlan, line: str) -> CardId:
        card_id = ("source", item.namespace, "")
        card = self.cards.setdefault(card_id, Card("source", item.namespace))
        if line not in card.lines:
            card.lines.append(line)
        return card_id

    def _feature_card(self, item: ClassPlan, feature: FeaturePlan, expression: Expr) -> Card:
        kind, text = _describe_expression(expression)
        return Card(kind, self._title(item, _WINDOW.sub("", feature.name)), [text])

    def _visit_needs(self, item: ClassPlan, expression: Expr) -> set[CardId]:
        # Sorted, because sets of names differ from run to run and the same plan gives one picture.
        needs = {self.visit(item, name) for name in sorted(own_columns(expression))}
        for node in walk(expression):
            if isinstance(node, Aggregate):
                needs.add(self._visit_join(item, node.join))
                self._add_aggregated_columns(item, node)
            elif isinstance(node, Lookup):
                needs.add(self._visit_join(item, node.join))
                target = self.plan.class_plan(item.join(node.join).target)
                card_id = self.visit(target, node.feature)
                # The join's own arrow already leads from the source's rows.
                if card_id[0] == "feature":
                    needs.add(card_id)
        return needs

    def _add_aggregated_columns(self, item: ClassPlan, node: Aggregate) -> None:
        join = item.join(node.join)
        names = {*join.target_keys}.union(*(own_columns(part) for part in inner(node)))
        names |= {node.window.column} if node.window.column else set()
        for name in sorted(names):
            self._add_row_feature(self.plan.class_plan(join.target), name)

    def _add_row_feature(self, target: ClassPlan, name: str) -> None:
        """A feature of aggregated rows is a line of its source's card: it is computed per row."""
        feature = target.feature(name)
        if feature.expression is None:
            self._add_source_line(target, _describe_column(target, feature))
            return
        for needed in sorted(own_columns(feature.expression)):
            self._add_row_feature(target, needed)
        self._add_source_line(target, f"{name} = {_plain_text(feature.expression)}")

    def _visit_join(self, item: ClassPlan, name: str) -> CardId:
        card_id = ("join", item.namespace, name)
        if card_id not in self.cards:
            join = item.join(name)
            target = self.plan.class_plan(join.target)
            pairs = zip(join.own_keys, join.target_keys, strict=True)
            lines = [f"{'has many' if join.many else 'has one'} {join.target}"]
            lines += [f"{own} = {join.target}.{other}" for own, other in pairs]
            card = self.cards[card_id] = Card("join", self._title(item, name), lines)
            for key in join.target_keys:
                line = _describe_column(target, target.feature(key))
                card.needs.add(self._add_source_line(target, line))
            card.needs |= {self.visit(item, key) for key in join.own_keys if key != item.key}
        return card_id


def _describe_column(item: ClassPlan, feature: FeaturePlan) -> str:
    mark = {item.key: "  (key)", item.time: "  (event time)"}.get(feature.name, "")
    return f"{feature.name}: {feature.dtype}{mark}"


def _describe_expression(expression: Expr) -> tuple[Kind, str]:
    if isinstance(expression, Resolved):
        # A card shows all outputs of the function: one output's name after the call would mislead.
        text = format_expression(expression).replace(f".{expression.output}  [", "  [")
        return "resolver", _plain(text)
    if isinstance(expression, Aggregate):
        values = [_plain_text(p) for p in (expression.value, expression.by) if p is not None]
        where = [_plain_text(part) for part in expression.where]
        text = f"{expression.kind}({', '.join(values)})"
        return "aggregate", text + (f" where {' and '.join(where)}" if where else "")
    if isinstance(expression, Lookup):
        return "lookup", _plain_text(expression)
    has_rows = any(isinstance(node, Aggregate) for node in walk(expression))
    return "aggregate" if has_rows else "expression", _plain_text(expression)


def _card_name(feature: FeaturePlan) -> str:
    """The windows of one feature, and the outputs of one function, share a card."""
    expression = feature.expression
    if isinstance(expression, Resolved) and len(expression.resolver.outputs) > 1:
        return f"@{expression.resolver.fqn}"
    return _WINDOW.sub("", feature.name)


def _plain_text(expression: Expr) -> str:
    return _plain(format_expression(expression))


def _plain(text: str) -> str:
    """The text of an expression without what only a parser needs."""
    return strip_brackets(_SOURCE_LOCATION.sub("", text).replace("_.", "").replace("µs", " µs"))


def _add_window(line: str, window_s: int) -> str:
    base, _, windows = line.partition(" over ")
    length = f"{window_s} s"
    if window_s % _DAY_S == 0:
        length = f"{window_s // _DAY_S} d"
    elif window_s % _HOUR_S == 0:
        length = f"{window_s // _HOUR_S} h"
    return f"{base} over {windows}, {length}" if windows else f"{base} over {length}"


def _set_levels(cards: dict[CardId, Card]) -> None:
    levels: dict[CardId, int] = {}

    # Recursion ends: the binder refuses features that depend on each other in a circle.
    def level_of(card_id: CardId) -> int:
        if card_id not in levels:
            needs = cards[card_id].needs
            levels[card_id] = 1 + max((level_of(need) for need in needs), default=-1)
        return levels[card_id]

    for card_id, card in cards.items():
        card.level = level_of(card_id)
