"""Drawing of a plan with matplotlib, into SVG or PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sunloom.errors import UsageError
from sunloom.features.picture.cards import Kind, cards_of
from sunloom.features.picture.layout import (
    COLUMN_GAP,
    LETTER_WIDTH,
    LINE_HEIGHT,
    LINE_SIZE,
    MARGIN,
    PADDING,
    TITLE_SIZE,
    PlacedCard,
    PlanLayout,
    place_cards,
)
from sunloom.features.plan.feature_sets import Plan

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
        _draw(plan, layout).savefig(path, dpi=160, metadata=metadata, facecolor="white")


def _draw(plan: Plan, layout: PlanLayout) -> Any:
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
