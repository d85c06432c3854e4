"""Layout of a plan's picture: the place of each card, in points."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from sunloom.features.picture.cards import Card, CardId

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
    boxes = {card_id: _measure(card) for card_id, card in cards.items()}
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
        _stack(boxes, columns[level], tallest)
    height = HEADER + tallest + MARGIN + _LEGEND_HEIGHT
    return PlanLayout(boxes, left - COLUMN_GAP + MARGIN, height)


def _column_height(column: list[PlacedCard]) -> float:
    return sum(box.height + ROW_GAP for box in column) - ROW_GAP


def _stack(boxes: dict[CardId, PlacedCard], column: list[CardId], tallest: float) -> None:
    def mean_of_needs(card_id: CardId) -> float:
        needs = [boxes[need].middle for need in boxes[card_id].card.needs]
        return sum(needs) / len(needs) if needs else 0.0

    # Sorting is stable: cards with the same needs keep the order of the definitions.
    placed = [boxes[card_id] for card_id in sorted(column, key=mean_of_needs)]
    top = HEADER + (tallest - _column_height(placed)) / 2
    for box in placed:
        box.top = top
        top += box.height + ROW_GAP


def _measure(card: Card) -> PlacedCard:
    lines = [part for line in card.lines for part in _wrap(line)]
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


def _wrap(line: str) -> list[str]:
    parts = textwrap.wrap(line, _MAX_LETTERS, break_long_words=True) or [""]
    return [*parts[:2], "…"] if len(parts) > 3 else parts
