"""The page of an evaluation report: figures with their intervals drawn, the gate, the texts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sunloom.core.html_page import (
    frame_header,
    frame_page,
    html_table,
    table_head,
    tile_figures,
)
from sunloom.evaluation.gate import GateDecision
from sunloom.evaluation.intervals import Estimate, MeanDifference
from sunloom.evaluation.report import (
    AnsweredQuestion,
    EvalReport,
    Figure,
    FigureScore,
    JudgeReport,
)

_SHOWN = 8
# Of a text: a page of a thousand long answers is not read.
_LONGEST = 2000
_WIDTH, _EDGE = 220, 6


def render_page(report: EvalReport) -> str:
    """The whole page, which needs nothing beside it."""
    gate = report.gate
    verdict = "no gate" if gate is None else "promoted" if gate.passed else "not promoted"
    when = f"{report.created_at:%Y-%m-%d %H:%M} UTC · {' · '.join(report.models)}"
    parts = [
        frame_header(
            "Evaluation", report.title, verdict, when, is_good=gate is None or gate.passed
        ),
        _tiles(report),
    ]
    if gate is not None:
        parts.append(_gate_section(gate))
    parts.append(_figures_section(report))
    if report.judge is not None:
        parts.append(_judge_section(report.judge))
    parts += [_texts_section(report, figure) for figure in report.figures]
    return frame_page(f"{report.title}: {verdict}", "".join(parts))


def _tiles(report: EvalReport) -> str:
    tiles = [
        (str(report.held_out), "held-out conversations", ""),
        (str(len(report.models)), "models", ""),
        (str(len(report.figures)), "figures", ""),
    ]
    if report.gate is not None:
        kept = sum(rule.passed for rule in report.gate.rules)
        kind = "good" if report.gate.passed else "bad"
        tiles.append((f"{kept} of {len(report.gate.rules)}", "rules hold", kind))
    return tile_figures(tiles)


def _gate_section(gate: GateDecision) -> str:
    rows = []
    for rule in sorted(gate.rules, key=lambda rule: rule.passed):
        mark = "<td class='ok'>holds</td>" if rule.passed else "<td class='no'>fails</td>"
        numbers = "".join(
            f"<td class='n'>{_number(n)}</td>" for n in (rule.value, rule.bound, rule.margin)
        )
        rows.append(
            f"<tr>{mark}<td><code>{escape(rule.rule)}</code></td>"
            f"<td><code>{escape(rule.figure)}</code></td>{numbers}"
            f"<td>{escape(rule.reason)}</td></tr>"
        )
    head = table_head(("", "rule", "figure"), ("value", "bound", "for chance"), ("why",))
    return (
        f"<section><h2>Gate of {escape(gate.alias)}</h2>"
        f"<div class='wide'>{html_table(head, rows)}</div></section>"
    )


def _figures_section(report: EvalReport) -> str:
    rows = []
    for figure in report.figures:
        span = _span(figure)
        for number, (model, score) in enumerate(zip(report.models, figure.scores, strict=True)):
            name = f"<code>{escape(figure.name)}</code><br><small>{escape(figure.metric)}</small>"
            first = f"<td rowspan='{len(report.models)}'>{name}</td>" if not number else ""
            rows.append(f"<tr>{first}<td>{escape(model)}</td>{_score_cells(score, figure, span)}")
    head = table_head(
        ("figure", "model", ""), ("value", "95 %", "rows", "difference", "95 %", "p"), ("",)
    )
    return (
        "<section><h2>Figures</h2><p class='legend'>Points with their intervals of 95 %. "
        "Differences are from the first model, row by row where the rows are the same.</p>"
        f"<div class='wide'>{html_table(head, rows)}</div></section>"
    )


def _score_cells(score: FigureScore, figure: Figure, span: tuple[float, float]) -> str:
    found, gap = score.estimate, score.difference
    if found is None:
        return "<td></td><td class='n'>no score</td>" + "<td></td>" * 6 + "</tr>"
    kind, word = _kind_of(gap, figure)
    cells = [
        _number(found.value),
        _interval(found),
        str(found.rows),
        "" if gap is None else f"{gap.value:+.4g}",
        "" if gap is None else _interval(gap),
        "" if gap is None or gap.p_value is None else f"{gap.p_value:.3g}",
    ]
    numbers = "".join(f"<td class='n'>{cell}</td>" for cell in cells)
    return f"<td>{_whisker(found, span)}</td>{numbers}<td class='{kind}'>{word}</td></tr>"


def _kind_of(gap: MeanDifference | None, figure: Figure) -> tuple[str, str]:
    """Class and word of a difference that chance does not explain."""
    if gap is None or gap.low is None or gap.high is None or gap.low <= 0 <= gap.high:
        return "", ""
    is_better = (gap.value > 0) != figure.is_lower_better
    return ("ok", "better") if is_better else ("no", "worse")


def _span(figure: Figure) -> tuple[float, float]:
    """Ends of a figure's axis: 0 and 1 where that is where its values lie."""
    found = [score.estimate for score in figure.scores if score.estimate is not None]
    ends = [end for e in found for end in (e.value, e.low, e.high) if end is not None]
    ends = [end for end in ends if abs(end) != float("inf") and end == end]
    if not ends or (min(ends) >= 0 and max(ends) <= 1):
        return 0.0, 1.0
    low, high = min(*ends, 0.0), max(*ends, 0.0)
    return low, high


def _whisker(found: Estimate, span: tuple[float, float]) -> str:
    """A point on its interval."""
    low, high = span
    scale = (_WIDTH - 2 * _EDGE) / (high - low or 1.0)

    def place(value: float) -> float:
        # Pixels: a value that is no number is drawn at the edge.
        return _EDGE + scale * (min(max(value, low), high) - low) if value == value else _EDGE

    line = ""
    if found.low is not None and found.high is not None:
        line = (
            f"<line x1='{place(found.low):.1f}' x2='{place(found.high):.1f}' y1='9' y2='9' "
            "stroke='var(--ref)' stroke-width='6' stroke-linecap='round'/>"
        )
    return (
        f"<svg width='{_WIDTH}' height='18' role='img' aria-label='{_number(found.value)}'>"
        f"<line x1='{_EDGE}' x2='{_WIDTH - _EDGE}' y1='9' y2='9' stroke='var(--line)'/>{line}"
        f"<circle cx='{place(found.value):.1f}' cy='9' r='4' fill='var(--cur)'/></svg>"
    )


def _judge_section(judge: JudgeReport) -> str:
    figures = [
        ("verdicts", str(judge.verdicts)),
        ("verdicts that could not be read", str(judge.unparsed)),
        ("requests without an answer", str(judge.failed)),
        ("pairs in both orders", str(judge.pairs)),
        ("same winner in both orders", _percent(judge.agreement)),
        ("wins of the answer that stood first (50 % is no bias)", _percent(judge.position_bias)),
        ("wins of the longer answer (50 % is no bias)", _percent(judge.length_bias)),
        ("people's verdicts", str(judge.labelled)),
        ("agreement with people", _percent(judge.label_agreement)),
        ("Cohen's kappa with people", _number(judge.kappa)),
        ("tokens of prompts and verdicts", f"{judge.prompt_tokens} + {judge.completion_tokens}"),
        ("cost", f"{judge.cost_usd:.4f} USD"),
    ]
    rows = [
        f"<tr><td>{escape(name)}</td><td class='n'>{escape(text)}</td></tr>"
        for name, text in figures
    ]
    return (
        f"<section><h2>Judged by {escape(judge.model)}</h2>"
        f"<div class='wide'>{html_table('', rows)}</div></section>"
    )


def _texts_section(report: EvalReport, figure: Figure) -> str:
    asked = [question for question in report.questions if question.figure == figure.name]
    if not asked:
        return ""
    # Where the models differ first, then what was wrong.
    chosen = sorted(asked, key=lambda q: (-_spread(q), _worst(q, figure)))[:_SHOWN]
    head = table_head(("asked", "expected", *map(escape, report.models)))
    rows = [_text_row(question, figure) for question in chosen]
    return (
        f"<section><h2><code>{escape(figure.name)}</code></h2>"
        f"<p class='aside'>{len(chosen)} of {len(asked)} rows; all of them are in the JSON.</p>"
        f"<div class='wide'>{html_table(head, rows, ' class=examples')}</div></section>"
    )


def _text_row(question: AnsweredQuestion, figure: Figure) -> str:
    cells = [f"<td>{_text(question.question)}</td><td>{_text(question.expected)}</td>"]
    for answer in question.answers:
        if answer is None:
            cells.append("<td></td>")
            continue
        is_right = answer.score == (0 if figure.is_lower_better else 1)
        kind = "ok" if is_right else "no" if answer.score in (0, 1) else ""
        cells.append(
            f"<td><span class='{kind}'>{answer.score:.3g}</span> {_text(answer.text)}</td>"
        )
    return f"<tr>{''.join(cells)}</tr>"


def _text(text: str) -> str:
    short = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
    return f"<span style='white-space:pre-wrap;overflow-wrap:anywhere'>{escape(short)}</span>"


def _scores_of(question: AnsweredQuestion) -> Sequence[float]:
    return [answer.score for answer in question.answers if answer is not None]


def _spread(question: AnsweredQuestion) -> float:
    scores = _scores_of(question)
    return max(scores) - min(scores)


def _worst(question: AnsweredQuestion, figure: Figure) -> float:
    scores = _scores_of(question)
    return -max(scores) if figure.is_lower_better else min(scores)


def _interval(found: Estimate | MeanDifference) -> str:
    if found.low is None or found.high is None:
        return "-"
    return f"{found.low:.3g} to {found.high:.3g}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
