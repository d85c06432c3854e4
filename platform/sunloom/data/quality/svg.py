"""Small pictures as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

_WIDTH, _HEIGHT = 220, 64


def share_bar(share: float, good: bool) -> str:
    """A share from 0 to 1 as a filled bar."""
    filled = max(0.0, min(1.0, share)) * 80
    kind = "good" if good else "bad"
    return (
        "<svg class='share' width='80' height='8' aria-hidden='true'>"
        "<rect class='rail' width='80' height='8' rx='4'/>"
        f"<rect class='{kind}' width='{filled:.1f}' height='8' rx='4'/></svg>"
    )


def histogram(counts: Sequence[int]) -> str:
    """Counts as columns."""
    top = max(counts) or 1
    width = 120 / len(counts)
    columns = "".join(
        f"<rect x='{n * width:.1f}' y='{24 - 24 * count / top:.1f}' "
        f"width='{max(width - 0.8, 0.8):.1f}' height='{24 * count / top:.1f}'/>"
        for n, count in enumerate(counts)
    )
    return f"<svg class='hist' width='120' height='24' aria-hidden='true'>{columns}</svg>"


def bars(reference: Sequence[float], current: Sequence[float]) -> str:
    """Two distributions over each other: the reference filled, the current one as a line."""
    top = max(*reference, *current) or 1.0
    width = _WIDTH / len(reference)
    filled = "".join(
        f"<rect x='{n * width:.1f}' y='{_y(share, top):.1f}' width='{max(width - 1, 0.6):.1f}' "
        f"height='{_HEIGHT - _y(share, top):.1f}'/>"
        for n, share in enumerate(reference)
    )
    steps = " ".join(
        f"{n * width:.1f},{_y(share, top):.1f} {(n + 1) * width:.1f},{_y(share, top):.1f}"
        for n, share in enumerate(current)
    )
    return (
        f"<svg class='drift' viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' "
        f"aria-label='both distributions'><g class='ref'>{filled}</g>"
        f"<polyline class='cur' points='{steps}'/></svg>"
    )


def _y(share: float, top: float) -> float:
    return 2 + (_HEIGHT - 2) * (1 - share / top)
