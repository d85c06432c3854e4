"""The report for people: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from sunloom.core.files import write_atomic
from sunloom.data.quality.report import CheckResult, Profile, QualityReport
from sunloom.data.quality.svg import bars, histogram, share_bar

_STYLE = Path(__file__).parent / "report.css"


def write_report(report: QualityReport, folder: Path) -> QualityReport:
    """Write ``report.html`` and ``report.json`` into ``folder``.

    Returns:
        The report, naming both files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = report.with_files(html=folder / "report.html", json=folder / "report.json")
    write_atomic(folder / "report.html", page(written))
    text = json.dumps(finite(written.to_dict()), indent=1, ensure_ascii=False)
    write_atomic(folder / "report.json", text)
    return written


def finite(value: Any) -> Any:
    """The data with null for what JSON cannot hold."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def page(report: QualityReport) -> str:
    """The whole HTML page."""
    verdict = "passed" if report.passed else "failed"
    failures = "".join(_failure(check) for check in report.failures)
    drift = _drift(report) if report.drift else ""
    parts = [
        f"<header class='{verdict}'><p class='kind'>Data quality</p>"
        f"<h1>{escape(Path(report.name).name)}</h1><p class='verdict'>{verdict}</p>"
        f"<p class='when'>{report.created_at:%Y-%m-%d %H:%M} UTC · {escape(report.name)}</p>"
        "</header>",
        _tiles(report),
        f"<section><h2>What failed</h2>{failures}</section>" if failures else "",
        _aside(report),
        drift,
        _checks(report.checks),
        _columns(report.profiles),
    ]
    title = f"{verdict}: {escape(Path(report.name).name)}"
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{title}</title><style>{_STYLE.read_text()}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>"
    )


def _tiles(report: QualityReport) -> str:
    passed = len(report.checks) - len(report.failures)
    tiles = [
        (f"{report.rows:,}", "rows", ""),
        (f"{len(report.profiles)}", "columns", ""),
        (
            f"{passed} of {len(report.checks)}",
            "checks passed",
            "bad" if report.failures else "good",
        ),
    ]
    if report.drift:
        kind = "bad" if report.drifted else "good"
        tiles.append((f"{len(report.drifted)} of {len(report.drift)}", "columns drifted", kind))
    cells = "".join(f"<div class='tile {k}'><b>{v}</b><span>{n}</span></div>" for v, n, k in tiles)
    return f"<div class='tiles'>{cells}</div>"


def _failure(check: CheckResult) -> str:
    count = f"{check.failed:,} of {check.rows:,} rows" if check.failed else ""
    return (
        f"<article><h3><code>{escape(check.feature)}</code> {escape(_words(check.check))}</h3>"
        f"<p>{escape(check.reason)}{': ' if count and check.reason else ''}{count}. "
        f"Found <b>{_found(check)}</b>, wanted {_wanted(check)}.</p>"
        f"{_examples(check.examples)}</article>"
    )


def _examples(examples: Sequence[Mapping[str, Any]]) -> str:
    if not examples:
        return ""
    rows = (
        (
            str(one["row"]),
            ", ".join(f"{name} {value}" for name, value in one["keys"].items()) or "-",
            _value(one["value"]),
        )
        for one in examples
    )
    return _table(("row", "key", "value found"), rows, "examples")


def _value(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items()) or "-"
    return str(value)


def _aside(report: QualityReport) -> str:
    if report.quarantine is None:
        return ""
    return f"<p class='aside'>All rows that fail: <code>{escape(str(report.quarantine))}</code></p>"


def _drift(report: QualityReport) -> str:
    cards = []
    for one in sorted(report.drift, key=lambda one: not one.drifted):
        shape = report.shapes.get(one.feature)
        picture = bars(shape.reference, shape.current) if shape else ""
        ends = (
            f"<span>{escape(shape.labels[0])}</span><span>{escape(shape.labels[-1])}</span>"
            if shape
            else ""
        )
        word = "drifted" if one.drifted else "steady"
        cards.append(
            f"<div class='card {word}'><h3><code>{escape(one.feature)}</code></h3>{picture}"
            f"<p class='ends'>{ends}</p><p>{escape(one.method)} <b>{one.value:.3f}</b>"
            f" · bound {one.threshold:g} · {word}</p></div>"
        )
    legend = "<p class='legend'><i class='ref'></i> reference <i class='cur'></i> these rows</p>"
    return f"<section><h2>Drift</h2>{legend}<div class='cards'>{''.join(cards)}</div></section>"


def _checks(checks: Sequence[CheckResult]) -> str:
    rows = []
    for check in sorted(checks, key=lambda check: check.passed):
        mark = "<td class='ok'>passed</td>" if check.passed else "<td class='no'>failed</td>"
        is_share = check.check not in ("rows", "freshness", "extra_columns")
        picture = share_bar(check.value, check.passed) if is_share else ""
        rows.append(
            f"<tr>{mark}<td><code>{escape(check.feature)}</code></td>"
            f"<td>{escape(_words(check.check))}</td><td>{picture}</td>"
            f"<td class='n'>{_found(check)}</td><td class='n'>{_wanted(check)}</td>"
            f"<td class='n'>{check.failed:,}</td></tr>"
        )
    head = _head(("", "column", "check", ""), ("found", "wanted", "rows failing"))
    return (
        f"<section><h2>All checks</h2><div class='wide'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _columns(profiles: Sequence[Profile]) -> str:
    rows = []
    for one in profiles:
        there = 1 - one.missing / one.rows if one.rows else 1.0
        numbers = [one.minimum, one.mean, one.maximum]
        cells = "".join(f"<td class='n'>{_figure(number)}</td>" for number in numbers)
        common = ", ".join(f"{text} ({count:,})" for text, count in one.common)
        picture = histogram(one.counts) if one.counts else f"<small>{escape(common)}</small>"
        rows.append(
            f"<tr><td><code>{escape(one.feature)}</code></td><td>{escape(_type(one.dtype))}</td>"
            f"<td>{share_bar(there, True)} {_percent(there)}</td>{cells}<td>{picture}</td></tr>"
        )
    head = _head(("column", "type", "there"), ("least", "mean", "greatest"), ("values",))
    return (
        f"<section><h2>Columns</h2><div class='wide'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _head(words: Sequence[str], numbers: Sequence[str], more_words: Sequence[str] = ()) -> str:
    left = "".join(f"<th>{name}</th>" for name in words)
    right = "".join(f"<th class='n'>{name}</th>" for name in numbers)
    return left + right + "".join(f"<th>{name}</th>" for name in more_words)


def _table(names: Sequence[str], rows: Iterable[Sequence[str]], kind: str) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table class='{kind}'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _found(check: CheckResult) -> str:
    if check.check == "freshness":
        return _age(check.value)
    if check.check in ("rows", "extra_columns"):
        return f"{check.value:,.0f}"
    return _percent(check.value)


def _wanted(check: CheckResult) -> str:
    if check.check == "freshness":
        return f"at most {_age(check.threshold)}"
    if check.check in ("rows", "extra_columns"):
        word = "at least" if check.check == "rows" else "at most"
        return f"{word} {check.threshold:,.0f}"
    return f"at least {_percent(check.threshold)}"


def _age(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.4g} {unit}"
    return f"{seconds:.3g} s"


def _percent(share: float) -> str:
    return "100 %" if share == 1 else f"{share * 100:.4g} %" if share < 0.9999 else f"{share:.6%}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"


def _words(check: str) -> str:
    return check.replace("_", " ")


def _type(dtype: str) -> str:
    return "Datetime, UTC" if dtype.startswith("Datetime") and "UTC" in dtype else dtype
