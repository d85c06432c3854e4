"""The plan as a picture: every card, no overlap, the same file for the same plan."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sunloom.cli.main import app
from sunloom.errors import UsageError
from sunloom.features.definitions.open import plan_of
from sunloom.features.picture import cards_of, draw_plan, place_cards
from sunloom.features.plan.feature_sets import Plan

RESOLVERS = str(Path(__file__).with_name("resolver_classes.py"))


@pytest.fixture(scope="module")
def customer() -> Plan:
    return plan_of("retail", "customer")


def test_windows_and_outputs_of_one_function_share_a_card(customer: Plan) -> None:
    titles = {card.title: card for card in cards_of(customer).values()}
    assert titles["total_amount"].lines == ["sum(amount) over 30 d, 90 d, 180 d"]
    assert titles["purchases"].lines == ["has many purchase", "id = purchase.customer_id"]
    assert titles["purchase"].level == 0
    assert [titles[n].level for n in ("purchases", "active_days", "tenure_days")] == [1, 2, 3]
    assert titles["mean_gap_days"].level == 4
    guest = {card.title: card for card in cards_of(plan_of(RESOLVERS, "rs_guest")).values()}
    assert guest["upper, length"].lines == ["@online measure(name, hotel.title)"]
    assert "tax = @online tax(paid)" in guest["rs_visit"].lines


@pytest.mark.parametrize(
    ("definitions", "feature_set"), [("retail", "customer"), (RESOLVERS, "rs_guest")]
)
def test_cards_stand_apart_and_inside_the_picture(definitions: str, feature_set: str) -> None:
    layout = place_cards(cards_of(plan_of(definitions, feature_set)))
    for one, other in combinations(layout.boxes.values(), 2):
        beside = one.left + one.width < other.left or other.left + other.width < one.left
        above = one.top + one.height < other.top or other.top + other.height < one.top
        assert beside or above
    for box in layout.boxes.values():
        assert 0 < box.left < box.left + box.width < layout.width
        assert 0 < box.top < box.top + box.height < layout.height
        for need in box.card.needs:
            assert layout.boxes[need].left + layout.boxes[need].width < box.left


def test_files(tmp_path: Path, customer: Plan) -> None:
    draw_plan(customer, tmp_path / "a.svg")
    draw_plan(customer, tmp_path / "b.svg")
    first = (tmp_path / "a.svg").read_text()
    assert first == (tmp_path / "b.svg").read_text()
    for word in ("customer: 18 features", customer.fingerprint, "mean_gap_days", "sum(amount)"):
        assert word in first
    draw_plan(customer, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match=r"\.svg or \.png, not '\.pdf'"):
        draw_plan(customer, tmp_path / "a.pdf")


def test_the_command_draws_and_still_prints(tmp_path: Path) -> None:
    run = CliRunner()
    drawing = ["features", "plan", "customer", "--picture", str(tmp_path / "plan.svg"), "--json"]
    drawn = run.invoke(app, drawing)
    assert drawn.exit_code == 0, drawn.output
    assert json.loads(drawn.stdout)["picture"].endswith("plan.svg")
    assert (tmp_path / "plan.svg").is_file()
    text = run.invoke(app, ["features", "plan", "--feature-set", "customer", "--text"])
    assert "purchases: many purchase on id = purchase.customer_id" in text.stdout
    with pytest.raises(UsageError, match="No feature set is named"):
        run.invoke(app, ["features", "plan"], catch_exceptions=False)
    twice = ["features", "plan", "customer", "--feature-set", "purchase"]
    with pytest.raises(UsageError, match="given twice"):
        run.invoke(app, twice, catch_exceptions=False)
