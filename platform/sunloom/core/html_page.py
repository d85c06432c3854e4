"""The frame of every HTML page that is written: one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

_STYLE = Path(__file__).parent / "page.css"


def frame_page(title: str, body: str) -> str:
    """The whole page.

    Args:
        title: Plain text.
        body: HTML.
    """
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{_STYLE.read_text()}</style></head>"
        f"<body><main>{body}</main></body></html>"
    )


def frame_header(kind: str, title: str, verdict: str, note: str, *, is_good: bool) -> str:
    """The page's header; all four are plain text."""
    return (
        f"<header class='{'passed' if is_good else 'failed'}'><p class='kind'>{escape(kind)}</p>"
        f"<h1>{escape(title)}</h1><p class='verdict'>{escape(verdict)}</p>"
        f"<p class='when'>{escape(note)}</p></header>"
    )


def tile_figures(tiles: Sequence[tuple[str, str, str]]) -> str:
    """A row of tiles.

    Args:
        tiles: Figure, its name, and ``good``, ``bad`` or "" of each.
    """
    cells = "".join(
        f"<div class='tile {kind}'><b>{escape(figure)}</b><span>{escape(name)}</span></div>"
        for figure, name, kind in tiles
    )
    return f"<div class='tiles'>{cells}</div>"


def table_head(
    words: Sequence[str], numbers: Sequence[str] = (), more_words: Sequence[str] = ()
) -> str:
    """Cells of a table's head: columns of words, of numbers, of words again."""
    left = "".join(f"<th>{name}</th>" for name in words)
    right = "".join(f"<th class='n'>{name}</th>" for name in numbers)
    return left + right + "".join(f"<th>{name}</th>" for name in more_words)


def html_table(head: str, rows: Sequence[str], attributes: str = "") -> str:
    """A table of rows that are HTML."""
    body = "".join(rows)
    return f"<table{attributes}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
