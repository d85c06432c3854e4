"""The picture of a plan: cards in the order in which they are computed, laid out and drawn."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sunloom.errors import UsageError
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
            kind, text = _describe_expression(feature.expression)
            title = self._title(item, _WINDOW.sub("", feature.name))
            self.cards[card_id] = Card(kind, title, [text])
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

    def _visit_needs(self, item: ClassPlan, expression: Expr) -> set[CardId]:
        # Sorted, because sets of names differ from run to run and the same plan gives one picture.
        needs = {self.visit(item, name) for name in sorted(own_columns(expression))}
        for node in walk(expression):
            if isinstance(node, Aggregate):
                needs.add(self._visit_join(item, node.join))
                join = item.join(node.join)
                names = {*join.target_keys}.union(*(own_columns(part) for part in inner(node)))
                names |= {node.window.column} if node.window.column else set()
                for name in sorted(names):
                    self._add_row_feature(self.plan.class_plan(join.target), name)
            elif isinstance(node, Lookup):
                needs.add(self._visit_join(item, node.join))
                target = self.plan.class_plan(item.join(node.join).target)
                card_id = self.visit(target, node.feature)
                # The join's own arrow already leads from the source's rows.
                if card_id[0] == "feature":
                    needs.add(card_id)
        return needs

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


TITLE_SIZE, LINE_SIZE = 9.5, 8.0
LINE_HEIGHT, PADDING = 12.0, 8.0
COLUMN_GAP, ROW_GAP, MARGIN, HEADER = 70.0, 12.0, 28.0, 56.0
LETTER_WIDTH = 0.56
"""Mean width of a letter of matplotlib's default font, as a share of its size."""
_LEGEND_HEIGHT = 26
_MAX_LETTERS = 40
_MAX_LINES = 12


@dataclass
class PlacedCard:
    """A card's box: left, top, width, height, and its text in lines as drawn."""

    card: Card
    lines: list[str]
    left: float = 0.0
    top: float = 0.0
    width: float = 0.0
    height: float = 0.0

    @property
    def middle(self) -> float:
        """The vertical middle, where arrows begin and end."""
        return self.top + self.height / 2


@dataclass
class PlanLayout:
    """The whole picture: boxes by card, width and height."""

    boxes: dict[CardId, PlacedCard]
    width: float
    height: float


def place_cards(cards: dict[CardId, Card]) -> PlanLayout:
    """Columns by level; in a column, cards are placed near those that they need."""
    boxes = {card_id: _measure_card(card) for card_id, card in cards.items()}
    columns: dict[int, list[CardId]] = {}
    for card_id, card in cards.items():
        columns.setdefault(card.level, []).append(card_id)
    left, tallest = MARGIN, 0.0
    for level in sorted(columns):
        column = [boxes[card_id] for card_id in columns[level]]
        width = max(box.width for box in column)
        for box in column:
            box.left, box.width = left, width
        left += width + COLUMN_GAP
        tallest = max(tallest, _column_height(column))
    # From left to right: a card's needs are in columns to its left, and placed before it.
    for level in sorted(columns):
        _stack_column(boxes, columns[level], tallest)
    height = HEADER + tallest + MARGIN + _LEGEND_HEIGHT
    return PlanLayout(boxes, left - COLUMN_GAP + MARGIN, height)


def _column_height(column: list[PlacedCard]) -> float:
    return sum(box.height + ROW_GAP for box in column) - ROW_GAP


def _stack_column(boxes: dict[CardId, PlacedCard], column: list[CardId], tallest: float) -> None:
    def mean_of_needs(card_id: CardId) -> float:
        needs = [boxes[need].middle for need in boxes[card_id].card.needs]
        return sum(needs) / len(needs) if needs else 0.0

    # Sorting is stable: cards with the same needs keep the order of the definitions.
    placed = [boxes[card_id] for card_id in sorted(column, key=mean_of_needs)]
    top = HEADER + (tallest - _column_height(placed)) / 2
    for box in placed:
        box.top = top
        top += box.height + ROW_GAP


def _measure_card(card: Card) -> PlacedCard:
    lines = [part for line in card.lines for part in _wrap_line(line)]
    if len(lines) > _MAX_LINES:
        hidden = len(lines) - _MAX_LINES + 1
        lines = [*lines[: _MAX_LINES - 1], f"… {hidden} more"]
    # Titles may be bold, which is wider.
    width = max(
        len(card.title) * TITLE_SIZE * (LETTER_WIDTH + 0.08),
        *(len(line) * LINE_SIZE * LETTER_WIDTH for line in lines),
        70.0,
    )
    height = 2 * PADDING + LINE_HEIGHT * (1 + len(lines))
    return PlacedCard(card, lines, width=width + 2 * PADDING, height=height)


def _wrap_line(line: str) -> list[str]:
    parts = textwrap.wrap(line, _MAX_LETTERS, break_long_words=True) or [""]
    return [*parts[:2], "…"] if len(parts) > 3 else parts


SUFFIXES = (".svg", ".png")
_POINTS_AN_INCH = 72
_INK, _FAINT = "#2B2F38", "#6B7280"
_COLOURS: dict[Kind, tuple[str, str]] = {
    "source": ("#EDF2FA", "#5B7DB1"),
    "join": ("#FCF4E3", "#CF9A35"),
    "aggregate": ("#E9F5EC", "#4F9462"),
    "lookup": ("#E4F4F5", "#3F9299"),
    "expression": ("#F2EDF9", "#7D62B0"),
    "resolver": ("#FBECEC", "#BE5B63"),
}
_NAMES: dict[Kind, str] = {
    "source": "source rows",
    "join": "join",
    "aggregate": "aggregated",
    "lookup": "of a joined row",
    "expression": "expression",
    "resolver": "Python function",
}


def draw_plan(plan: Plan, path: Path) -> None:
    """Write a picture of the plan.

    Args:
        plan: What to show.
        path: A ``.svg`` or ``.png`` file; text in SVG stays text.

    Raises:
        UsageError: Another kind of file.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(
            f"A picture is {' or '.join(SUFFIXES)}, not {path.suffix or path.name!r}.",
            param="picture",
        )
    layout = place_cards(cards_of(plan))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Imported late for its weight: every other use of a plan does without matplotlib.
    import matplotlib as mpl

    # The same plan gives the same file: no date, and element ids from a fixed salt.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sunloom"}):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        _draw_figure(plan, layout).savefig(path, dpi=160, metadata=metadata, facecolor="white")


def _draw_figure(plan: Plan, layout: PlanLayout) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = (layout.width / _POINTS_AN_INCH, layout.height / _POINTS_AN_INCH)
    # No pyplot: it keeps every figure alive and chooses a backend by the display.
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, layout.width)
    # The layout counts from the top, as text flows.
    axes.set_ylim(layout.height, 0)
    axes.axis("off")
    title = f"{plan.feature_set}: {len(plan.outputs)} features"
    axes.text(MARGIN, 24, title, size=14, weight="bold", color=_INK, va="center")
    below = f"plan {plan.fingerprint}"
    axes.text(MARGIN, 40, below, size=LINE_SIZE, color=_FAINT, va="center")
    for box in layout.boxes.values():
        for need in sorted(box.card.needs):
            _draw_arrow(axes, layout.boxes[need], box)
    for box in layout.boxes.values():
        _draw_card(axes, box)
    _draw_legend(axes, layout)
    return figure


def _draw_card(axes: Any, box: PlacedCard) -> None:
    from matplotlib.patches import FancyBboxPatch

    fill, edge = _COLOURS[box.card.kind]
    shape = "round,pad=0,rounding_size=5"
    patch = FancyBboxPatch(
        (box.left, box.top), box.width, box.height, boxstyle=shape, fc=fill, ec=edge, lw=1.1
    )
    axes.add_patch(patch)
    left, top = box.left + PADDING, box.top + PADDING + LINE_HEIGHT / 2
    weight = "bold" if box.card.is_output or box.card.kind in ("source", "join") else "normal"
    axes.text(left, top, box.card.title, size=TITLE_SIZE, weight=weight, color=_INK, va="center")
    for number, line in enumerate(box.lines, 1):
        y = top + number * LINE_HEIGHT
        axes.text(left, y, line, size=LINE_SIZE, color=_FAINT, va="center")


def _draw_arrow(axes: Any, start: PlacedCard, end: PlacedCard) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    x0, y0, x1, y1 = start.left + start.width, start.middle, end.left, end.middle
    bend = min((x1 - x0) / 2, COLUMN_GAP)
    # Straight past the columns between, then down or up in the last gap, where no card is.
    turn = x1 - 2 * bend if x1 - x0 > 2 * bend else x0
    points = [(x0, y0), (turn, y0), (turn + bend, y0), (x1 - bend, y1), (x1, y1)]
    codes = [Curve.MOVETO, Curve.LINETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
    colour = _COLOURS[start.card.kind][1]
    # Below the cards (``zorder``), so that no line crosses their text.
    patch = PathPatch(Curve(points, codes), fc="none", ec=colour, lw=0.9, alpha=0.55, zorder=0)
    axes.add_patch(patch)


def _draw_legend(axes: Any, layout: PlanLayout) -> None:
    from matplotlib.patches import FancyBboxPatch

    kinds = {box.card.kind for box in layout.boxes.values()}
    left, y = MARGIN, layout.height - MARGIN + 4
    for kind in (kind for kind in _COLOURS if kind in kinds):
        fill, edge = _COLOURS[kind]
        shape = "round,pad=0,rounding_size=2"
        axes.add_patch(FancyBboxPatch((left, y - 5), 10, 10, boxstyle=shape, fc=fill, ec=edge))
        axes.text(left + 15, y, _NAMES[kind], size=LINE_SIZE, color=_INK, va="center")
        left += 15 + len(_NAMES[kind]) * LINE_SIZE * LETTER_WIDTH + 16
