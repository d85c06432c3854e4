"""Votes of people on answers of two models, which they see without the models' names.

Pairs come from an evaluation report; they and the votes lie in the database.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Integer, String, Text, delete, select, true
from sqlalchemy.orm import Mapped, Session, mapped_column

from sunloom.config.names import check_name
from sunloom.core.database import Base, Database, UtcDateTime, utc_now
from sunloom.errors import ConflictError, NotFoundError, UsageError
from sunloom.evaluation.bradley_terry import PairVote, Strength, fit_strengths
from sunloom.evaluation.report import EvalReport

Choice = Literal["left", "right", "tie"]
_SCORES = {"first": 1.0, "tie": 0.5, "second": 0.0}


class AnswerPairRow(Base):
    """Two answers to one question."""

    __tablename__ = "answer_pairs"

    evaluation: Mapped[str] = mapped_column(String(100), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    tenant: Mapped[str | None] = mapped_column(String(100))
    question: Mapped[str] = mapped_column(Text)
    first: Mapped[str] = mapped_column(Text)
    second: Mapped[str] = mapped_column(Text)
    first_model: Mapped[str] = mapped_column(String(300))
    second_model: Mapped[str] = mapped_column(String(300))


class VoteRow(Base):
    """One person's vote on a pair."""

    __tablename__ = "answer_votes"

    # With the voter in the key, nobody counts twice.
    evaluation: Mapped[str] = mapped_column(String(100), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    voter: Mapped[str] = mapped_column(String(200), primary_key=True)
    winner: Mapped[str] = mapped_column(String(10))
    voted_at: Mapped[datetime] = mapped_column(UtcDateTime)


@dataclass(frozen=True)
class BlindPair:
    """What a voter sees.

    Attributes:
        number: Of the pair; None where all of them have the voter's vote.
        question: What was asked.
        left, right: Answers, on sides that the voter and the pair decide.
        voted: Pairs with the voter's vote.
        pairs: All of them.
    """

    number: int | None
    question: str
    left: str
    right: str
    voted: int
    pairs: int


@dataclass(frozen=True)
class VotedPair:
    """A vote with its pair: a row of the export, which ``llm_judge.labels`` reads.

    Attributes:
        question: What was asked.
        first, second: Both answers.
        winner: ``first``, ``second`` or ``tie``.
        first_model, second_model: Who wrote them.
        number: Of the pair.
        voter: Who voted.
    """

    question: str
    first: str
    second: str
    winner: str
    first_model: str
    second_model: str
    number: int
    voter: str


@dataclass(frozen=True)
class VoteResults:
    """What the votes of an evaluation come to.

    Attributes:
        evaluation: Its name.
        pairs: All of them.
        voters: People.
        votes: Of all voters.
        agreement: Share of the pairs of votes on one pair of answers that say the same; None
            where nobody voted on what another did.
        strengths: By Bradley and Terry, the strongest first.
    """

    evaluation: str
    pairs: int
    voters: int
    votes: int
    agreement: float | None
    strengths: tuple[Strength, ...]


class Votes:
    """Pairs and votes of evaluations.

    Args:
        database: Holds them.
        owner: The tenant whose they are; None is the operator. No tenant sees another's, nor the
            operator's: questions may be anybody's conversations.
        is_admin: Whether every tenant's are seen.
    """

    def __init__(
        self, database: Database, owner: str | None = None, *, is_admin: bool = False
    ) -> None:
        self._database, self._owner, self._is_admin = database, owner, is_admin
        database.ensure(AnswerPairRow, VoteRow)

    def publish(self, name: str, report: EvalReport, figure: str) -> int:
        """Offer the answers of a figure to voters; returns the number of pairs.

        Each model's answer is paired with that of each other one; equal ones are left out.

        Args:
            name: Of the evaluation.
            report: Of two models or more.
            figure: Whose questions were answered.

        Raises:
            UsageError: The name cannot be one, or there is no pair.
            ConflictError: There is an evaluation of this name.
        """
        try:
            check_name(name)
        except ValueError as error:
            raise UsageError(f"An evaluation cannot be named {name!r}: {error}.") from None
        rows: list[AnswerPairRow] = []
        for row in (row for row in report.questions if row.figure == figure):
            answers = [
                (model, _storable(answer.text))
                for model, answer in zip(report.models, row.answers, strict=True)
                if answer is not None
            ]
            for place, (first_model, first) in enumerate(answers):
                for second_model, second in answers[place + 1 :]:
                    if first.strip() != second.strip():
                        rows.append(
                            AnswerPairRow(
                                evaluation=name, number=len(rows) + 1, tenant=self._owner,
                                question=row.question, first=first, second=second,
                                first_model=first_model, second_model=second_model,
                            )
                        )  # fmt: skip
        if not rows:
            known = sorted({row.figure for row in report.questions})
            raise UsageError(
                f"The report has no two unlike answers to one question of {figure!r}.",
                f"Figures with answers: {', '.join(known)}",
            )
        with self._database.session() as session:
            taken = select(AnswerPairRow.number).where(AnswerPairRow.evaluation == name).limit(1)
            if session.scalar(taken) is not None:
                raise ConflictError(f"There is an evaluation {name!r}.", "Choose another name.")
            session.add_all(rows)
        return len(rows)

    def list_names(self) -> list[str]:
        """Evaluations, by name."""
        query = select(AnswerPairRow.evaluation).where(self._is_visible()).distinct()
        with self._database.session() as session:
            return list(session.scalars(query.order_by(AnswerPairRow.evaluation)))

    def next_pair(self, name: str, voter: str) -> BlindPair:
        """The pair that a voter sees next: one with the fewest votes.

        Raises:
            NotFoundError: There is no such evaluation.
        """
        with self._database.session() as session:
            pairs = self._pairs(session, name)
            votes = _votes(session, name)
        counts = dict.fromkeys(pairs, 0)
        for vote in votes:
            counts[vote.number] += 1
        own = {vote.number for vote in votes if vote.voter == voter}
        left = [number for number in pairs if number not in own]
        if not left:
            return BlindPair(None, "", "", "", voted=len(own), pairs=len(pairs))
        # In an order of the voter's own, so that several begin with unlike pairs.
        number = min(left, key=lambda n: (counts[n], _hash(name, n, voter)))
        row = pairs[number]
        sides = (row.first, row.second)
        if _is_swapped(name, number, voter):
            sides = (row.second, row.first)
        return BlindPair(number, row.question, *sides, voted=len(own), pairs=len(pairs))

    def vote(self, name: str, number: int, voter: str, choice: Choice) -> None:
        """Count a vote; it takes the place of the voter's earlier one on the pair.

        Args:
            name: Of the evaluation.
            number: Of the pair.
            voter: Who votes.
            choice: The better side as the voter saw them.

        Raises:
            NotFoundError: There is no such evaluation or pair.
        """
        sides = ("second", "first") if _is_swapped(name, number, voter) else ("first", "second")
        winner = "tie" if choice == "tie" else sides[choice == "right"]
        with self._database.session() as session:
            if number not in self._pairs(session, name):
                raise NotFoundError(f"{name!r} has no pair {number}.", param="number")
            session.merge(
                VoteRow(
                    evaluation=name, number=number, voter=voter, winner=winner, voted_at=utc_now()
                )
            )

    def export(self, name: str) -> list[VotedPair]:
        """Every vote with its pair.

        Raises:
            NotFoundError: There is no such evaluation.
        """
        with self._database.session() as session:
            pairs = self._pairs(session, name)
            votes = _votes(session, name)
        return [
            VotedPair(
                question=pairs[vote.number].question,
                first=pairs[vote.number].first,
                second=pairs[vote.number].second,
                winner=vote.winner,
                first_model=pairs[vote.number].first_model,
                second_model=pairs[vote.number].second_model,
                number=vote.number,
                voter=vote.voter,
            )
            for vote in votes
        ]

    def results(self, name: str) -> VoteResults:
        """What the votes come to.

        Raises:
            NotFoundError: There is no such evaluation.
        """
        with self._database.session() as session:
            pairs = len(self._pairs(session, name))
        rows = self.export(name)
        votes = [PairVote(v.first_model, v.second_model, _SCORES[v.winner]) for v in rows]
        return VoteResults(
            evaluation=name,
            pairs=pairs,
            voters=len({row.voter for row in rows}),
            votes=len(rows),
            agreement=_agreement(rows),
            strengths=fit_strengths(votes) if votes else (),
        )

    def remove(self, name: str) -> None:
        """Delete an evaluation with its votes.

        Raises:
            NotFoundError: There is no such evaluation.
        """
        with self._database.session() as session:
            self._pairs(session, name)
            for table in (VoteRow, AnswerPairRow):
                session.execute(delete(table).where(table.evaluation == name))

    def _pairs(self, session: Session, name: str) -> dict[int, AnswerPairRow]:
        query = select(AnswerPairRow).where(AnswerPairRow.evaluation == name, self._is_visible())
        rows = session.scalars(query.order_by(AnswerPairRow.number)).all()
        if not rows:
            raise NotFoundError(
                f"There is no evaluation {name[:60]!r}.", known=self.list_names(), name=name
            )
        return {row.number: row for row in rows}

    def _is_visible(self) -> Any:
        # SQLAlchemy compares with None by IS.
        return true() if self._is_admin else AnswerPairRow.tenant == self._owner


def _votes(session: Session, name: str) -> Sequence[VoteRow]:
    query = select(VoteRow).where(VoteRow.evaluation == name)
    return session.scalars(query.order_by(VoteRow.number, VoteRow.voter)).all()


def _agreement(rows: Sequence[VotedPair]) -> float | None:
    same = pairs = 0
    for number in {row.number for row in rows}:
        winners = [row.winner for row in rows if row.number == number]
        pairs += len(winners) * (len(winners) - 1) // 2
        same += sum(n * (n - 1) // 2 for n in map(winners.count, {*winners}))
    return same / pairs if pairs else None


def _is_swapped(name: str, number: int, voter: str) -> bool:
    # Not stored: a vote counts for the side that this voter saw.
    return _hash(name, number, voter)[0] % 2 == 1


def _storable(text: str) -> str:
    # PostgreSQL's texts have no NUL, which a model may write.
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _hash(*parts: object) -> bytes:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
