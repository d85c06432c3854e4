"""The report of judged models: every figure with its interval, their differences, the texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from sunloom.core.database import utc_now
from sunloom.core.files import write_atomic
from sunloom.errors import DataError, UsageError
from sunloom.evaluation.gate import CLOSED, GateDecision
from sunloom.evaluation.intervals import (
    Estimate,
    MeanDifference,
    compare_paired,
    compare_unpaired,
    estimate_mean,
)
from sunloom.evaluation.measurements import Measurement

_Z = 1.96


@dataclass(frozen=True, config=CLOSED)
class RowValues:
    """The rows of a figure.

    Attributes:
        keys: Their names.
        values: Of each.
        weights: What each counts for; all alike when empty.
    """

    keys: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()


@dataclass(frozen=True, config=CLOSED)
class FigureScore:
    """What a model has in a figure.

    Attributes:
        estimate: With its interval; None where it has no score.
        rows: Behind it.
        difference: From the first model; None for that, and where one of both has no score or
            weighs the same rows otherwise, as a loss of another tokenizer's tokens does.
    """

    estimate: Estimate | None
    rows: RowValues
    difference: MeanDifference | None = None


@dataclass(frozen=True, config=CLOSED)
class Figure:
    """One figure of all models.

    Attributes:
        name: Such as ``tasks.assent``.
        metric: What it measures, in words.
        is_lower_better: Whether less is better.
        scores: Of each model, in the report's order.
    """

    name: str
    metric: str
    is_lower_better: bool
    scores: tuple[FigureScore, ...]


@dataclass(frozen=True, config=CLOSED)
class Answer:
    """What a model wrote.

    Attributes:
        text: Its answer.
        score: From 0 to 1.
    """

    text: str
    score: float


@dataclass(frozen=True, config=CLOSED)
class AnsweredQuestion:
    """One question with the answers of all models.

    Attributes:
        figure: That it belongs to.
        key: Of the row.
        question: The last thing the user said.
        expected: The right answer.
        answers: Of each model, in the report's order; None where it was not asked.
    """

    figure: str
    key: str
    question: str
    expected: str
    answers: tuple[Answer | None, ...]


@dataclass(frozen=True, config=CLOSED)
class JudgeReport:
    """How a language model judged, and how far it can be trusted.

    A pair is asked for twice, once in each order of its answers.

    Attributes:
        model: Its name at the endpoint.
        verdicts: Those that could be read.
        unparsed: Those that could not; none of them counts.
        failed: Requests without an answer after all attempts.
        pairs: Judged in both orders.
        agreement: Share of these with the same winner in both; None without any.
        position_bias: Share of all wins that went to the answer that stood first; 0.5 is none.
        length_bias: Share of the pairs with a winner that the longer answer won; 0.5 is none.
        labelled: People's verdicts that it was compared with.
        label_agreement: Share of these that it gave too.
        kappa: Cohen's, of both.
        prompt_tokens, completion_tokens: Of all requests.
        cost_usd: By the recipe's prices.
    """

    model: str
    verdicts: int
    unparsed: int
    failed: int
    pairs: int
    agreement: float | None
    position_bias: float | None
    length_bias: float | None
    labelled: int
    label_agreement: float | None
    kappa: float | None
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float


@dataclass(frozen=True, config=CLOSED)
class EvalReport:
    """A judged model beside others.

    Attributes:
        title: Of its page.
        models: Names, the first being what the others are compared with.
        held_out: Conversations that judged.
        figures: In the order of the judges.
        questions: Asked of all models, figure by figure.
        created_at: UTC.
        gate: What was decided; None where nothing was to be promoted.
        judge: Of a language model's verdicts; None where there is none.
        harness: What lm-eval reports of each model's benchmarks, by model.
        schema_version: Of this record; a change of its fields raises it.
    """

    title: str
    models: tuple[str, ...]
    held_out: int
    figures: tuple[Figure, ...]
    questions: tuple[AnsweredQuestion, ...]
    created_at: datetime
    gate: GateDecision | None = None
    judge: JudgeReport | None = None
    harness: dict[str, Any] | None = None
    schema_version: Literal[1] = 1

    def figure(self, name: str) -> Figure:
        """The figure of a name.

        Raises:
            KeyError: There is none.
        """
        return {figure.name: figure for figure in self.figures}[name]

    def summarise(self) -> dict[str, dict[str, Any]]:
        """What a gate needs of the last model beside the first, by figure; without the rows."""
        summary = {}
        for figure in self.figures:
            first, last = figure.scores[0].estimate, figure.scores[-1].estimate
            difference = figure.scores[-1].difference
            summary[figure.name] = {
                "metric": figure.metric,
                "start": first.value if first else None,
                "trained": last.value if last else None,
                "low": difference.low if difference else None,
                "high": difference.high if difference else None,
                "rows": last.rows if last else 0,
                "is_lower_better": figure.is_lower_better,
            }
        return summary

    def save(self, path: Path) -> Path:
        """Write it as JSON, whole or not at all."""
        write_atomic(path, _ADAPTER.dump_json(self, indent=1))
        return path


_ADAPTER = TypeAdapter(EvalReport)


def read_report(path: Path) -> EvalReport:
    """A report that was saved.

    Raises:
        UsageError: There is no such file.
        DataError: It is none of this version.
    """
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path} is no evaluation report: {where}: {first['msg']}.") from error


def build_report(
    title: str,
    models: Mapping[str, Sequence[Measurement]],
    *,
    held_out: int,
    judge: JudgeReport | None = None,
    harness: Mapping[str, Any] | None = None,
) -> EvalReport:
    """A report of models that were judged by the same.

    Args:
        title: Of its page.
        models: Measurements of each, the first being what the others are compared with.
        held_out: Conversations that judged.
        judge: Of a language model's verdicts.
        harness: What lm-eval reports, by model.
    """
    by_name = [{m.figure: m for m in measured} for measured in models.values()]
    names = dict.fromkeys(name for measured in by_name for name in measured)
    each = {name: [measured.get(name) for measured in by_name] for name in names}
    return EvalReport(
        title=title,
        models=tuple(models),
        held_out=held_out,
        figures=tuple(_build_figure(name, measured) for name, measured in each.items()),
        questions=tuple(q for measured in each.values() for q in _find_questions(measured)),
        created_at=utc_now(),
        judge=judge,
        harness=dict(harness) if harness else None,
    )


def decide_in(report: EvalReport, decision: GateDecision) -> EvalReport:
    """The report with what a gate decided."""
    return replace(report, gate=decision)


def _build_figure(name: str, measured: Sequence[Measurement | None]) -> Figure:
    one = next(m for m in measured if m is not None)
    first = measured[0]
    scores = []
    for number, m in enumerate(measured):
        if m is None:
            scores.append(FigureScore(None, RowValues()))
            continue
        scores.append(
            FigureScore(
                estimate=_estimate(m),
                rows=RowValues(m.keys, m.values, m.weights),
                difference=_compare(first, m) if number and first is not None else None,
            )
        )
    return Figure(name, one.metric, one.is_lower_better, tuple(scores))


def _estimate(measured: Measurement) -> Estimate | None:
    if measured.values and measured.value is None:
        return estimate_mean(measured.values, measured.weights)
    if (value := measured.value) is None:
        return None
    rows, error = measured.count or len(measured.values), measured.standard_error
    if error is None:
        return Estimate(value, rows)
    return Estimate(value, rows, "normal", value - _Z * error, value + _Z * error)


def _compare(first: Measurement, second: Measurement) -> MeanDifference | None:
    weights = (first.weights, second.weights)
    if first.values and second.values:
        is_paired = first.keys == second.keys
        # Another tokenizer counts other tokens: means over these are of unlike things.
        if is_paired and first.weights != second.weights:
            return None
        compare = compare_paired if is_paired else compare_unpaired
        return compare(first.values, second.values, weights)
    if first.value is None or second.value is None:
        return None
    rows = min(first.count, second.count)
    return MeanDifference(second.value - first.value, rows)


def _find_questions(measured: Sequence[Measurement | None]) -> list[AnsweredQuestion]:
    texts = [
        dict(zip(m.keys, m.texts, strict=True)) if m is not None and m.texts else {}
        for m in measured
    ]
    one = next(m for m in measured if m is not None)
    found = []
    for key in dict.fromkeys(key for by_key in texts for key in by_key):
        asked = next(by_key[key] for by_key in texts if key in by_key)
        answers = tuple(
            Answer(by_key[key].generated, by_key[key].score) if key in by_key else None
            for by_key in texts
        )
        found.append(AnsweredQuestion(one.figure, key, asked.question, asked.expected, answers))
    return found
