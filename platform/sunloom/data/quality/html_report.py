"""The quality report as one HTML file that needs nothing else; its pictures are inline SVG."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from sunloom.core.files import write_atomic
from sunloom.core.html_page import (
    frame_header,
    frame_page,
    html_table,
    table_head,
    tile_figures,
)
from sunloom.data.quality.profiles import Profile
from sunloom.data.quality.report import CheckResult, QualityReport, RowExample, null_infinite

_DRIFT_WIDTH, _DRIFT_HEIGHT = 220, 64


def write_report(report: QualityReport, folder: Path) -> QualityReport:
    """Write ``report.html`` and ``report.json`` into ``folder``.

    Returns:
        The report, naming both files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    html, numbers = folder / "report.html", folder / "report.json"
    # Before the files are written: report.json gives the path of the page.
    written = replace(report, html=html, json=numbers)
    write_atomic(html, render_page(written))
    plain = null_infinite(written.to_dict())
    write_atomic(numbers, json.dumps(plain, indent=1, ensure_ascii=False))
    return written


def render_page(report: QualityReport) -> str:
    """The whole HTML page."""
    verdict = "passed" if report.is_passed else "failed"
    failures = "".join(_failure(check) for check in report.failures)
    when = f"{report.created_at:%Y-%m-%d %H:%M} UTC · {report.name}"
    header = frame_header("Data quality", Path(report.name).name, verdict, when,
                          is_good=report.is_passed)  # fmt: skip
    parts = [header, _tiles(report)]
    if failures:
        parts.append(f"<section><h2>What failed</h2>{failures}</section>")
    if report.quarantine is not None:
        file = escape(str(report.quarantine))
        parts.append(f"<p class='aside'>All rows that fail: <code>{file}</code></p>")
    if report.drift or report.drift_skipped:
        parts.append(_drift_section(report))
    parts += [_checks_section(report.checks), _columns_section(report.profiles)]
    return frame_page(f"{verdict}: {Path(report.name).name}", "".join(parts))


def _tiles(report: QualityReport) -> str:
    passed, drifted = len(report.checks) - len(report.failures), len(report.drifted_columns)
    tiles = [(f"{report.rows:,}", "rows", ""), (f"{len(report.profiles)}", "columns", "")]
    kind = "bad" if report.failures else "good"
    tiles.append((f"{passed} of {len(report.checks)}", "checks passed", kind))
    if report.drift:
        kind = "bad" if drifted else "good"
        tiles.append((f"{drifted} of {len(report.drift)}", "columns drifted", kind))
    return tile_figures(tiles)


def _failure(check: CheckResult) -> str:
    count = f"{check.failed:,} of {check.rows:,} rows" if check.failed else ""
    return (
        f"<article><h3><code>{escape(check.feature)}</code> {escape(_words(check.check))}</h3>"
        f"<p>{escape(check.reason)}{': ' if count and check.reason else ''}{count}. "
        f"Found <b>{_measure_text(check.check, check.value)}</b>, wanted {_threshold_text(check)}."
        f"</p>{_examples(check.examples)}</article>"
    )


def _examples(examples: Sequence[RowExample]) -> str:
    rows = []
    for example in examples:
        value = example.value
        text = _pairs(value) if isinstance(value, Mapping) else str(value)
        cells = (str(example.row), _pairs(example.keys), "nothing" if value is None else text)
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    table = html_table(table_head(("row", "key", "value found")), rows, " class='examples'")
    return table if rows else ""


def _drift_section(report: QualityReport) -> str:
    cards = []
    # sorted is stable: drifted columns come first, each group in the table's order.
    for column in sorted(report.drift, key=lambda column: not column.drifted):
        shape = report.shapes.get(column.feature)
        picture = _drift_bars(shape.reference, shape.current) if shape else ""
        ends = (
            f"<span>{escape(shape.labels[0])}</span><span>{escape(shape.labels[-1])}</span>"
            if shape
            else ""
        )
        word = "drifted" if column.drifted else "steady"
        outcome = (
            f"cannot be compared: {escape(column.reason)}"
            if column.value is None
            else f"{escape(column.method)} <b>{column.value:.3f}</b>"
            f" · bound {column.threshold:g} · {word}"
        )
        cards.append(
            f"<div class='card {word}'><h3><code>{escape(column.feature)}</code></h3>{picture}"
            f"<p class='ends'>{ends}</p><p>{outcome}</p></div>"
        )
    legend = "<p class='legend'><i class='ref'></i> reference <i class='cur'></i> these rows</p>"
    skipped = f"<p class='aside'>{escape(report.drift_skipped)}</p>" if report.drift_skipped else ""
    pictures = f"{legend}<div class='cards'>{''.join(cards)}</div>" if cards else ""
    return f"<section><h2>Drift</h2>{skipped}{pictures}</section>"


def _checks_section(checks: Sequence[CheckResult]) -> str:
    rows = []
    for check in sorted(checks, key=lambda check: check.passed):
        mark = "<td class='ok'>passed</td>" if check.passed else "<td class='no'>failed</td>"
        # These three measure counts and seconds, which no bar from 0 to 1 can show.
        is_share = check.check not in ("rows", "freshness", "extra_columns")
        picture = _share_bar(check.value, check.passed) if is_share else ""
        rows.append(
            f"<tr>{mark}<td><code>{escape(check.feature)}</code></td>"
            f"<td>{escape(_words(check.check))}</td><td>{picture}</td>"
            f"<td class='n'>{_measure_text(check.check, check.value)}</td>"
            f"<td class='n'>{_threshold_text(check)}</td><td class='n'>{check.failed:,}</td></tr>"
        )
    head = table_head(("", "column", "check", ""), ("found", "wanted", "rows failing"))
    return f"<section><h2>All checks</h2><div class='wide'>{html_table(head, rows)}</div></section>"


def _columns_section(profiles: Sequence[Profile]) -> str:
    rows = []
    for profile in profiles:
        present = 1 - profile.missing / profile.rows if profile.rows else 1.0
        numbers = (profile.minimum, profile.mean, profile.maximum)
        figures = ("-" if number is None else f"{number:,.4g}" for number in numbers)
        cells = "".join(f"<td class='n'>{figure}</td>" for figure in figures)
        is_utc = profile.dtype.startswith("Datetime") and "UTC" in profile.dtype
        dtype = "Datetime, UTC" if is_utc else escape(profile.dtype)
        common = ", ".join(f"{text} ({count:,})" for text, count in profile.common)
        picture = (
            _histogram(profile.counts) if profile.counts else f"<small>{escape(common)}</small>"
        )
        rows.append(
            f"<tr><td><code>{escape(profile.feature)}</code></td>"
            f"<td>{dtype}</td><td>{_share_bar(present, True)} {_percent(present)}</td>{cells}"
            f"<td>{picture}</td></tr>"
        )
    head = table_head(("column", "type", "there"), ("least", "mean", "greatest"), ("values",))
    return f"<section><h2>Columns</h2><div class='wide'>{html_table(head, rows)}</div></section>"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "-"


def _threshold_text(check: CheckResult) -> str:
    word = "at most" if check.check in ("freshness", "extra_columns") else "at least"
    return f"{word} {_measure_text(check.check, check.threshold)}"


def _measure_text(check: str, value: float) -> str:
    if check == "freshness":
        return _age(value)
    return f"{value:,.0f}" if check in ("rows", "extra_columns") else _percent(value)


def _age(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.4g} {unit}"
    return f"{seconds:.3g} s"


def _percent(share: float) -> str:
    # Just below 100 % more digits, so that a share that is not whole never reads as 100 %.
    return "100 %" if share == 1 else f"{share * 100:.4g} %" if share < 0.9999 else f"{share:.6%}"


def _words(check: str) -> str:
    return check.replace("_", " ")


def _share_bar(share: float, good: bool) -> str:
    """A share from 0 to 1 as a filled bar."""
    filled = max(0.0, min(1.0, share)) * 80
    kind = "good" if good else "bad"
    return (
        "<svg class='share' width='80' height='8' aria-hidden='true'>"
        "<rect class='rail' width='80' height='8' rx='4'/>"
        f"<rect class='{kind}' width='{filled:.1f}' height='8' rx='4'/></svg>"
    )


def _histogram(counts: Sequence[int]) -> str:
    """Counts as columns."""
    top = max(counts) or 1
    width = 120 / len(counts)
    columns = "".join(
        f"<rect x='{n * width:.1f}' y='{24 - 24 * count / top:.1f}' "
        f"width='{max(width - 0.8, 0.8):.1f}' height='{24 * count / top:.1f}'/>"
        for n, count in enumerate(counts)
    )
    return f"<svg class='hist' width='120' height='24' aria-hidden='true'>{columns}</svg>"


def _drift_bars(reference: Sequence[float], current: Sequence[float]) -> str:
    """Two distributions over each other: the reference filled, the current one as a line."""
    top = max(*reference, *current) or 1.0
    width = _DRIFT_WIDTH / len(reference)
    # Cells of single values have no limit: the gap must not take the whole of a narrow bar.
    filled = "".join(
        f"<rect x='{n * width:.1f}' y='{_y(share, top):.1f}' width='{max(width - 1, 0.6):.1f}' "
        f"height='{_DRIFT_HEIGHT - _y(share, top):.1f}'/>"
        for n, share in enumerate(reference)
    )
    steps = " ".join(
        f"{n * width:.1f},{_y(share, top):.1f} {(n + 1) * width:.1f},{_y(share, top):.1f}"
        for n, share in enumerate(current)
    )
    return (
        f"<svg class='drift' viewBox='0 0 {_DRIFT_WIDTH} {_DRIFT_HEIGHT}' role='img' "
        f"aria-label='both distributions'><g class='ref'>{filled}</g>"
        f"<polyline class='cur' points='{steps}'/></svg>"
    )


def _y(share: float, top: float) -> float:
    # Two pixels stay free above the highest bar, or its line would be clipped.
    return 2 + (_DRIFT_HEIGHT - 2) * (1 - share / top)
