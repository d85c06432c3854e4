"""Where each card of the picture stands, in points."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from sunloom.features.picture.cards import Card, CardId

TITLE_SIZE, LINE_SIZE = 9.5, 8.0
LINE_HEIGHT, PADDING = 12.0, 8.0
COLUMN_GAP, ROW_GAP, MARGIN, HEADER = 70.0, 12.0, 28.0, 56.0
_LETTER = 0.56
_MOST_LETTERS = 40
_MOST_LINES = 12


@dataclass
class PlacedCard:
    """A card's box: left, top, width, height, and its text as it is written."""

    card: Card
    lines: list[str]
    left: float = 0.0
    top: float = 0.0
    width: float = 0.0
    height: float = 0.0

    @property
    def middle(self) -> float:
        """Half its height down."""
        return self.top + self.height / 2


@dataclass
class PlanLayout:
    """The whole picture: boxes by card, width and height."""

    boxes: dict[CardId, PlacedCard]
    width: float
    height: float


def place_cards(cards: dict[CardId, Card]) -> PlanLayout:
    """Columns by level; in a column, cards stand near those that they need."""
    boxes = {name: _sized(card) for name, card in cards.items()}
    columns: dict[int, list[CardId]] = {}
    for name, card in cards.items():
        columns.setdefault(card.level, []).append(name)
    left, tallest = MARGIN, 0.0
    for level in sorted(columns):
        names = columns[level]
        width = max(boxes[name].width for name in names)
        for name in names:
            boxes[name].left, boxes[name].width = left, width
        left += width + COLUMN_GAP
        total = sum(boxes[name].height + ROW_GAP for name in names) - ROW_GAP
        tallest = max(tallest, total)
    for level in sorted(columns):
        _stack(boxes, columns[level], tallest)
    return PlanLayout(boxes, left - COLUMN_GAP + MARGIN, HEADER + tallest + MARGIN + 26)


def _stack(boxes: dict[CardId, PlacedCard], names: list[CardId], tallest: float) -> None:
    def near(name: CardId) -> float:
        needs = [boxes[need].middle for need in boxes[name].card.needs]
        return sum(needs) / len(needs) if needs else 0.0

    # Sorting is stable: cards with the same needs keep the order of the definitions.
    names.sort(key=near)
    total = sum(boxes[name].height + ROW_GAP for name in names) - ROW_GAP
    top = HEADER + (tallest - total) / 2
    for name in names:
        boxes[name].top = top
        top += boxes[name].height + ROW_GAP


def _sized(card: Card) -> PlacedCard:
    lines = [part for line in card.lines for part in _wrapped(line)]
    if len(lines) > _MOST_LINES:
        hidden = len(lines) - _MOST_LINES + 1
        lines = [*lines[: _MOST_LINES - 1], f"… {hidden} more"]
    width = max(
        len(card.title) * TITLE_SIZE * (_LETTER + 0.08),
        *(len(line) * LINE_SIZE * _LETTER for line in lines),
        70.0,
    )
    height = 2 * PADDING + LINE_HEIGHT * (1 + len(lines))
    return PlacedCard(card, lines, width=width + 2 * PADDING, height=height)


def _wrapped(line: str) -> list[str]:
    parts = textwrap.wrap(line, _MOST_LETTERS, break_long_words=True) or [""]
    return [*parts[:2], "…"] if len(parts) > 3 else parts
