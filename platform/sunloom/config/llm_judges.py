"""The judges of safety and the language model as judge, in a recipe's ``evaluation``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator

from sunloom.config.loading.model import Model
from sunloom.config.names import Name

Share = Annotated[float, Field(ge=0, le=1)]
Detector = Literal["key", "email", "phone", "iban", "card"]


class _SafetyJudge(Model):
    """What all judges of safety have."""

    path: Path | None = None
    """JSON lines with cases of one's own; README.md says what a row holds."""
    shipped: bool = True
    """Whether the cases that come with Sunloom are judged too."""
    limit: int | None = Field(default=None, ge=1)
    """Cases that are judged, the first ones; empty judges all."""


class RefusalJudge(_SafetyJudge):
    """Whether harmful requests are refused, and harmless ones that sound alike are not."""

    type: Literal["refusal"] = "refusal"
    """Chooses this variant."""
    name: Name = "refusal"
    """Name of its figures: ``safety.NAME.refused`` and ``safety.NAME.over_refused``."""
    min_refused: Share | None = None
    """Share of harmful requests that a model must refuse to be promoted; empty asks for nothing."""
    max_over_refused: Share | None = None
    """Most of the harmless requests that it may refuse to be promoted; empty asks for nothing."""


class LeakageJudge(_SafetyJudge):
    """Whether secrets that the prompt says to keep, or anybody's personal data, are given away."""

    type: Literal["leakage"] = "leakage"
    """Chooses this variant."""
    name: Name = "leakage"
    """Name of its figures: ``safety.NAME.leaked`` and ``safety.NAME.personal_data``."""
    detectors: tuple[Detector, ...] = ("key", "email", "phone", "iban", "card")
    """Kinds of data that an answer is searched for: access keys, e-mail addresses, phone numbers,
    IBANs with their checksum, card numbers with theirs. What the user wrote is no leak."""
    max_leaked: Share | None = None
    """Most of the answers that may hold a planted secret for the model to be promoted; empty asks
    for nothing."""
    max_personal_data: Share | None = None
    """Most of the answers in which a detector may find something; empty asks for nothing."""


class InjectionJudge(_SafetyJudge):
    """Whether instructions that stand in a document or in a tool's result are followed."""

    type: Literal["injection"] = "injection"
    """Chooses this variant."""
    name: Name = "injection"
    """Name of its figure: ``safety.NAME.followed``."""
    max_followed: Share | None = None
    """Most of the planted instructions that may be followed for the model to be promoted; empty
    asks for nothing."""


class ToxicityJudge(_SafetyJudge):
    """Whether answers are toxic, by words and by a classifier of one's own."""

    type: Literal["toxicity"] = "toxicity"
    """Chooses this variant."""
    name: Name = "toxicity"
    """Name of its figure: ``safety.NAME.toxic``."""
    words: Path | None = None
    """File with more words or phrases, one a line; those that come with Sunloom always count."""
    classifier: str | None = None
    """Entry point of the group ``sunloom.safety_classifiers``: a callable that takes an answer and
    returns how toxic it is, from 0 to 1."""
    threshold: Share = 0.5
    """From which value of the classifier an answer counts as toxic."""
    max_toxic: Share | None = None
    """Most of the answers that may be toxic for the model to be promoted; empty asks for
    nothing."""


SafetyJudge = Annotated[
    RefusalJudge | LeakageJudge | InjectionJudge | ToxicityJudge, Field(discriminator="type")
]


class Rubric(Model):
    """A quality that a judge scores from 1 to 5."""

    name: Name
    """Name of the figure: ``judge.NAME``."""
    description: str = Field(min_length=1)
    """What 1 and what 5 mean."""


class JudgePrices(Model):
    """Prices of the judge's tokens, USD for a million."""

    input_usd: float = Field(default=0.0, ge=0)
    """Of the prompts."""
    output_usd: float = Field(default=0.0, ge=0)
    """Of the verdicts."""


class LlmJudge(Model):
    """A language model that compares answers with those of what was trained from, and scores them.

    Every pair is asked for twice, with the answers in both orders, and wins only where both
    verdicts agree.
    """

    base_url: str
    """OpenAI-compatible endpoint, such as ``http://127.0.0.1:8000/v1`` of Sunloom's own gateway."""
    model: str
    """Name of the model there."""
    api_key: SecretStr | None = None
    """Key of the endpoint, such as ``${SUNLOOM_JUDGE_KEY}``; empty sends none."""
    held_out: int = Field(default=50, ge=1)
    """Held-out conversations whose last answer is judged, the first ones."""
    pairwise: bool = True
    """Whether answers of two models are compared: ``judge.win_rate``, in which a tie is half."""
    rubrics: tuple[Rubric, ...] = ()
    """Qualities that each answer is scored for."""
    labels: Path | None = None
    """JSON lines of people's verdicts, ``{"question", "first", "second", "winner"}`` with the
    winner ``first``, ``second`` or ``tie``: the judge gives its own, and the report their
    agreement and Cohen's kappa."""
    concurrency: int = Field(default=8, ge=1)
    """Requests at once."""
    retries: int = Field(default=4, ge=0)
    """Further attempts of a request that failed or was refused for now."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Longest request."""
    reasons: bool = True
    """Whether the judge says why before it decides, which costs tokens."""
    max_tokens: int = Field(default=256, ge=16)
    """Longest verdict."""
    max_unparsed: Share = 0.2
    """Share of verdicts that cannot be read above which the judge is refused."""
    prices: JudgePrices = JudgePrices()
    """For the report's cost."""
    min_win_rate: Share | None = None
    """Share of pairs that a model must win to be promoted; empty asks for nothing."""

    @field_validator("rubrics")
    @classmethod
    def _rubrics_have_names_of_their_own(cls, value: tuple[Rubric, ...]) -> tuple[Rubric, ...]:
        names = [rubric.name for rubric in value]
        if len({*names}) < len(names) or "win_rate" in names:
            raise ValueError("two rubrics have the same name, or one is win_rate")
        return value


class NoRegression(Model):
    """A figure of the report in which a model must not fall behind what it was trained from."""

    figure: str = Field(min_length=1)
    """Its name in the report, or a pattern such as ``safety.*``."""
    margin: float = Field(default=0.0, ge=0)
    """How much worse it may be, beyond chance: the loss fails the gate where its whole interval of
    95 %, on the same rows, is above this."""
