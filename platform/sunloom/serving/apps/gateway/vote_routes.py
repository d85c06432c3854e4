"""``/evaluations``: people's votes on answers of two models whose names they do not see."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import Field, StringConstraints

from sunloom.config import Settings
from sunloom.core.database import open_database
from sunloom.evaluation.votes import Choice, Votes
from sunloom.serving.apps.fastapi_app import ClosedBody
from sunloom.serving.asgi import Scope
from sunloom.serving.auth.middleware import caller
from sunloom.serving.auth.tenants import is_admin, owner_for

_PAGE = Path(__file__).with_name("vote_page.html")
_VOTER = r"^[^\x00-\x1f\x7f]*$"
Voter = Annotated[str, StringConstraints(max_length=60, pattern=_VOTER)]
_MOST_PAIRS = 1_000_000


class NewVote(ClosedBody):
    """The better side of a pair, as the voter saw it."""

    number: int = Field(ge=1, le=_MOST_PAIRS, strict=True)
    choice: Choice
    voter: Voter = ""


def build_router(settings: Settings) -> APIRouter:
    """Routes of blind votes; a tenant sees its own evaluations, ``admin`` every tenant's."""
    router = APIRouter(prefix="/evaluations", tags=["evaluations"])

    def votes_of(scope: Scope) -> Votes:
        return Votes(open_database(settings), owner_for(scope), is_admin=is_admin(scope))

    # These routes are no coroutines: FastAPI runs them in threads, where the database may block.
    @router.get("")
    def list_evaluations(request: Request) -> dict[str, Any]:
        """Evaluations that can be voted on."""
        return {"evaluations": votes_of(request.scope).list_names()}

    @router.get("/page", response_class=HTMLResponse)
    def page() -> HTMLResponse:
        """The page for voters; ``?name=`` is the evaluation."""
        return HTMLResponse(
            _PAGE.read_text(),
            headers={
                # What models wrote is only ever text, and the page speaks to its own host alone.
                "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
                "script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'"
            },
        )

    @router.get("/blind/{name}")
    def show_pair(
        request: Request,
        name: str,
        voter: Annotated[str, Query(max_length=60, pattern=_VOTER)] = "",
    ) -> dict[str, Any]:
        """The next pair of answers for a voter, without the models' names."""
        return asdict(votes_of(request.scope).next_pair(name, _voter_of(request.scope, voter)))

    @router.post("/blind/{name}")
    def vote(request: Request, name: str, body: NewVote) -> dict[str, Any]:
        """Count a vote, or change it; gives the next pair."""
        votes, voter = votes_of(request.scope), _voter_of(request.scope, body.voter)
        votes.vote(name, body.number, voter, body.choice)
        return asdict(votes.next_pair(name, voter))

    @router.get("/results/{name}")
    def show_results(request: Request, name: str) -> dict[str, Any]:
        """Strengths of the models by Bradley and Terry, with intervals of 95 %."""
        return asdict(votes_of(request.scope).results(name))

    @router.get("/votes/{name}")
    def export_votes(request: Request, name: str) -> dict[str, Any]:
        """Every vote with its pair and models."""
        return {"votes": [asdict(vote) for vote in votes_of(request.scope).export(name)]}

    return router


def _voter_of(scope: Scope, voter: str) -> str:
    """Who votes: the key, and a name where several people share one."""
    key = caller(scope).key
    return f"{key.id if key else ''}:{voter.strip()}"
