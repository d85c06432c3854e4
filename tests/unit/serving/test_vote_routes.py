"""Blind votes over HTTP: the page for a browser, and what a key reaches."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from small_gateway import small_gateway

from sunloom.config import Settings, load_config
from sunloom.core.database import open_database
from sunloom.evaluation.measurements import JudgedText, measure_texts
from sunloom.evaluation.report import build_report
from sunloom.evaluation.votes import Votes
from sunloom.serving.auth.api_keys import create_key

CONF = Path(__file__).parents[3] / "conf"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("votes")
    sets = [f"paths.state={folder / 'state'}", f"paths.outputs={folder / 'outputs'}"]
    return load_config(Settings, sets=sets, conf_dir=CONF).config


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[httpx.Client]:
    texts = {"m@1": ("<b>good</b>", "good"), "m@2": ("bad", "bad")}
    models = {
        name: [measure_texts("tasks.x", "x", tuple(JudgedText("q", "e", t, 0.0) for t in both))]
        for name, both in texts.items()
    }
    report = build_report("t", models, held_out=2)
    Votes(open_database(settings), "acme").publish("ours", report, "tasks.x")
    with small_gateway(settings) as client:
        yield client


def key_of(settings: Settings, tenant: str, *scopes: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {create_key(settings, list(scopes), tenant)[0]}"}


def test_a_voter_sees_pairs_without_names_and_no_results(
    settings: Settings, client: httpx.Client
) -> None:
    rater = key_of(settings, "acme", "models")
    assert client.get("/evaluations", headers=rater).json() == {"evaluations": ["ours"]}
    pair = client.get("/evaluations/blind/ours", headers=rater).json()
    assert "bad" in {pair["left"], pair["right"]}
    assert (pair["voted"], pair["pairs"]) == (0, 2)
    assert "m@" not in str(pair)
    side = "left" if "good" in pair["left"] else "right"
    body = {"number": pair["number"], "choice": side}
    after = client.post("/evaluations/blind/ours", headers=rater, json=body).json()
    assert (after["voted"], after["number"]) == (1, 3 - pair["number"])
    # Another name with the same key is another voter.
    named = client.get("/evaluations/blind/ours?voter=bob", headers=rater).json()
    assert named["voted"] == 0
    for path in ("results", "votes"):
        assert client.get(f"/evaluations/{path}/ours", headers=rater).status_code == 403
    trainer = key_of(settings, "acme", "train")
    results = client.get("/evaluations/results/ours", headers=trainer).json()
    assert (results["votes"], results["strengths"][0]["model"]) == (1, "m@1")
    [vote] = client.get("/evaluations/votes/ours", headers=trainer).json()["votes"]
    assert (vote["winner"], vote["first_model"], vote["second"]) == ("first", "m@1", "bad")


def test_another_tenants_evaluation_is_not_there(settings: Settings, client: httpx.Client) -> None:
    other = key_of(settings, "evil", "models", "train")
    assert client.get("/evaluations", headers=other).json() == {"evaluations": []}
    for path in ("blind", "results", "votes"):
        answer = client.get(f"/evaluations/{path}/ours", headers=other)
        assert answer.status_code == 404
        assert "ours" not in answer.json()["error"]["hint"]
    body = {"number": 1, "choice": "left"}
    assert client.post("/evaluations/blind/ours", headers=other, json=body).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"number": 0, "choice": "left"},
        {"number": 1, "choice": "first"},
        {"number": 1, "choice": "left", "winner": "m@1"},
        {"number": 1, "choice": "left", "voter": "a\nb"},
        {"number": 7, "choice": "left"},
    ],
)
def test_a_vote_that_is_none_is_refused(
    settings: Settings, client: httpx.Client, body: dict[str, object]
) -> None:
    answer = client.post("/evaluations/blind/ours", json=body)
    assert answer.status_code in (400, 404, 422)
    assert answer.json()["error"]["message"]


def test_a_browser_opens_the_page_with_the_key_as_password(
    settings: Settings, client: httpx.Client
) -> None:
    key = create_key(settings, ["models"], "acme")[0]
    bare = {"Authorization": ""}
    refused = client.get("/evaluations/page?name=ours", headers=bare)
    assert refused.status_code == 401
    # Chrome reads one challenge of each line.
    challenges = refused.headers.get_list("www-authenticate")
    assert challenges == ['Bearer realm="sunloom"', 'Basic realm="sunloom"']
    elsewhere = client.get("/models", headers=bare)
    assert elsewhere.headers.get_list("www-authenticate") == challenges[:1]
    page = client.get("/evaluations/page?name=ours", auth=("me", key))
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    # Nothing comes from elsewhere, and texts never become markup.
    assert not re.search(r"https?://|src=|innerHTML", page.text)
    assert client.get("/evaluations/blind/ours", auth=("me", key)).json()["pairs"] == 2
    # What a form on another site can send is no vote.
    plain = client.post(
        "/evaluations/blind/ours",
        auth=("me", key),
        content='{"number": 1, "choice": "left"}',
        headers={"Content-Type": "text/plain"},
    )
    assert plain.status_code in (400, 415, 422)
    # Elsewhere a password is no key.
    assert client.get("/evaluations/results/ours", auth=("me", key)).status_code == 401
    assert client.get("/models", auth=("me", key)).status_code == 401


def test_people_vote_by_keyboard_in_a_browser(
    settings: Settings, client: httpx.Client, chromium: Any, tmp_path: Path
) -> None:
    key, record = create_key(settings, ["models"], "acme")
    context = chromium.new_context(http_credentials={"username": "me", "password": key})
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"{client.base_url}/evaluations/page?name=ours")
    page.locator("#progress", has_text="0 of 2").wait_for()
    texts = {page.inner_text("#left"), page.inner_text("#right")}
    # What a model wrote is text, whatever it looks like, and nothing names the models.
    assert texts in ({"<b>good</b>", "bad"}, {"good", "bad"})
    assert page.locator("main b").count() == 0
    assert "m@" not in page.content()
    left_is_good = "good" in page.inner_text("#left")
    page.keyboard.press("ArrowLeft" if left_is_good else "ArrowRight")
    page.locator("#progress", has_text="1 of 2").wait_for()
    # While a name is typed, its letters are no votes.
    page.fill("#voter", "")
    page.locator("#voter").press("1")
    assert page.inner_text("#progress") == "1 of 2"
    page.fill("#voter", "")
    page.locator("#voter").blur()
    page.locator("#progress", has_text="1 of 2").wait_for()
    page.keyboard.press("2")
    page.locator("#message", has_text="That was all").wait_for()
    assert page.locator("button:disabled").count() == 3
    assert page.screenshot(path=tmp_path / "voted.png").startswith(b"\x89PNG")
    assert faults == []
    context.close()
    trainer = key_of(settings, "acme", "train")
    votes = client.get("/evaluations/votes/ours", headers=trainer).json()["votes"]
    mine = [vote["winner"] for vote in votes if vote["voter"] == f"{record.id}:"]
    assert sorted(mine) == ["first", "tie"]
