"""What a picture of a plan shows: cards, and which needs which."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from sunloom.features.plan.explain import format_expression, strip_brackets
from sunloom.features.plan.expressions import Aggregate, Lookup, Resolved, inner, own_columns, walk
from sunloom.features.plan.feature_sets import ClassPlan, FeaturePlan, Plan

Kind = Literal["source", "join", "aggregate", "lookup", "expression", "resolver"]
CardId = tuple[str, str, str]
_WINDOW = re.compile(r"__\d+__$")
_PLACE = re.compile(r"  \[[^\]]*\]$")
_DAY_S, _HOUR_S = 86_400, 3_600


@dataclass
class Card:
    """One box of the picture.

    Attributes:
        kind: Decides its colour.
        title: What it is called.
        lines: What it says below.
        is_output: Whether the feature set gives it.
        needs: Cards that it is computed from.
        level: How many steps lie before it.
    """

    kind: Kind
    title: str
    lines: list[str] = field(default_factory=list)
    is_output: bool = False
    needs: set[CardId] = field(default_factory=set)
    level: int = 0


def cards_of(plan: Plan) -> dict[CardId, Card]:
    """Every card that the plan's outputs need, levels set; windows of one feature share a card."""
    builder = _Builder(plan)
    for name in plan.outputs:
        builder.visit(plan.namespace, name)
    builder.mark_outputs()
    levels = _levels(builder.cards)
    for card_id, card in builder.cards.items():
        card.level = levels[card_id]
    return builder.cards


class _Builder:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.cards: dict[CardId, Card] = {}
        self._seen: set[tuple[str, str]] = set()

    def visit(self, namespace: str, name: str) -> CardId:
        """The card that shows the feature."""
        item = self.plan.class_plan(namespace)
        feature = item.feature(name)
        if feature.expression is None:
            return self._source(item, feature)
        card_id = ("feature", namespace, _card_name(feature))
        if (namespace, name) in self._seen:
            return card_id
        self._seen.add((namespace, name))
        if card_id not in self.cards:
            self.cards[card_id] = self._feature(item, feature)
        elif feature.window_s is None:
            self.cards[card_id].title += f", {name}"
        card = self.cards[card_id]
        if feature.window_s is not None:
            card.lines[0] = _with_window(card.lines[0], feature.window_s)
        card.needs |= self._needs(item, feature)
        return card_id

    def mark_outputs(self) -> None:
        """Say which cards the feature set gives."""
        root = self.plan.root
        names = {_card_name(root.feature(name)) for name in self.plan.outputs}
        for (kind, namespace, name), card in self.cards.items():
            card.is_output = (
                kind == "feature" and namespace == self.plan.namespace and name in names
            )

    def _source(self, item: ClassPlan, feature: FeaturePlan) -> CardId:
        card_id = ("source", item.namespace, "")
        card = self.cards.setdefault(card_id, Card("source", item.namespace))
        marks = {item.key: "key", item.time: "event time"}
        mark = marks.get(feature.name)
        line = f"{feature.name}: {feature.dtype}" + (f"  ({mark})" if mark else "")
        if line not in card.lines:
            card.lines.append(line)
        return card_id

    def _feature(self, item: ClassPlan, feature: FeaturePlan) -> Card:
        title = _WINDOW.sub("", feature.name)
        if item.namespace != self.plan.namespace:
            title = f"{item.namespace}.{title}"
        kind, text = _made(feature)
        return Card(kind, title, [text])

    def _needs(self, item: ClassPlan, feature: FeaturePlan) -> set[CardId]:
        assert feature.expression is not None
        needed = sorted(own_columns(feature.expression))
        needs = {self.visit(item.namespace, name) for name in needed}
        for node in walk(feature.expression):
            if isinstance(node, Aggregate):
                needs.add(self._join(item, node.join))
                self._read_rows(item, node)
            elif isinstance(node, Lookup):
                needs.add(self._join(item, node.join))
                found = self.visit(item.join(node.join).target, node.feature)
                # The join's own arrow already leads from the source's rows.
                needs |= {found} if found[0] == "feature" else set()
        return needs

    def _read_rows(self, item: ClassPlan, node: Aggregate) -> None:
        join = item.join(node.join)
        target = self.plan.class_plan(join.target)
        names = {*join.target_keys}.union(*(own_columns(part) for part in inner(node)))
        names |= {node.window.column} if node.window.column else set()
        for name in sorted(names):
            self._row_feature(target, name)

    def _row_feature(self, target: ClassPlan, name: str) -> None:
        """A feature of a joined row stands in its source's card: it is computed there."""
        feature = target.feature(name)
        if feature.expression is None:
            self._source(target, feature)
            return
        for needed in sorted(own_columns(feature.expression)):
            self._row_feature(target, needed)
        card = self.cards.setdefault(
            ("source", target.namespace, ""), Card("source", target.namespace)
        )
        line = f"{name} = {plain(format_expression(feature.expression))}"
        if line not in card.lines:
            card.lines.append(line)

    def _join(self, item: ClassPlan, name: str) -> CardId:
        join = item.join(name)
        card_id = ("join", item.namespace, name)
        if card_id not in self.cards:
            title = name if item.namespace == self.plan.namespace else f"{item.namespace}.{name}"
            how = "has many" if join.many else "has one"
            pairs = zip(join.own_keys, join.target_keys, strict=True)
            lines = [f"{how} {join.target}"]
            lines += [f"{own} = {join.target}.{other}" for own, other in pairs]
            self.cards[card_id] = Card("join", title, lines)
            target = self.plan.class_plan(join.target)
            reads = {self._source(target, target.feature(key)) for key in join.target_keys}
            computed = {self.visit(item.namespace, k) for k in join.own_keys if k != item.key}
            self.cards[card_id].needs = reads | computed
        return card_id


def _made(feature: FeaturePlan) -> tuple[Kind, str]:
    expression = feature.expression
    assert expression is not None
    if isinstance(expression, Resolved):
        text = format_expression(expression)
        several = f".{expression.output}  ["
        return "resolver", plain(text.replace(several, "  ["))
    if isinstance(expression, Aggregate):
        values = [
            plain(format_expression(p)) for p in (expression.value, expression.by) if p is not None
        ]
        where = [plain(format_expression(part)) for part in expression.where]
        text = f"{expression.kind}({', '.join(values)})"
        return "aggregate", text + (f" where {' and '.join(where)}" if where else "")
    if isinstance(expression, Lookup):
        return "lookup", plain(format_expression(expression))
    has_rows = any(isinstance(node, Aggregate) for node in walk(expression))
    return "aggregate" if has_rows else "expression", plain(format_expression(expression))


def _card_name(feature: FeaturePlan) -> str:
    """Windows of one feature, and outputs of one function, share a card."""
    made = feature.expression
    if isinstance(made, Resolved) and len(made.resolver.outputs) > 1:
        return f"@{made.resolver.fqn}"
    return _WINDOW.sub("", feature.name)


def plain(text: str) -> str:
    """An expression without what only a parser needs."""
    text = _PLACE.sub("", text).replace("_.", "").replace("µs", " µs")
    return strip_brackets(text)


def _with_window(line: str, window_s: int) -> str:
    base, _, windows = line.partition(" over ")
    length = f"{window_s} s"
    if window_s % _DAY_S == 0:
        length = f"{window_s // _DAY_S} d"
    elif window_s % _HOUR_S == 0:
        length = f"{window_s // _HOUR_S} h"
    return f"{base} over {windows}, {length}" if windows else f"{base} over {length}"


def _levels(cards: dict[CardId, Card]) -> dict[CardId, int]:
    levels: dict[CardId, int] = {}

    def level(name: CardId) -> int:
        if name not in levels:
            levels[name] = 1 + max((level(need) for need in cards[name].needs), default=-1)
        return levels[name]

    for name in cards:
        level(name)
    return levels
