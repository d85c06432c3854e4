"""The recipe's part of a fingerprint is what earlier versions computed, new keys left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from sunloom.config import Model, load_config
from sunloom.config.loading.model import dump_identity
from sunloom.config.tabular import TabularRecipe
from sunloom.tabular.trainer import FINGERPRINT_KEYS

CONF = Path(__file__).parents[3] / "conf"
PARTS = {"rows", "algorithms", "tuning", "output"}


class Section(Model):
    old: int = 1
    new: int = 2


class Toy(Model):
    section: Section = Section()
    later: tuple[Section, ...] = ()


@pytest.mark.parametrize("name", ["repurchase", None])
def test_todays_keys_are_written_at_their_default_too(name: str | None) -> None:
    recipe = CONF / "tabular" / f"{name}.yaml" if name else None
    config = load_config(TabularRecipe, recipe=recipe, conf_dir=CONF, environ={}).config
    identity = dump_identity(config, FINGERPRINT_KEYS)
    expected = config.model_dump(mode="json", include=PARTS)
    assert {key: identity[key] for key in PARTS} == expected


def test_a_later_key_counts_only_where_it_is_set() -> None:
    always = {"section", "section.old"}
    assert dump_identity(Toy(), always) == {"section": {"old": 1}}
    changed = Toy(section=Section(new=3), later=(Section(old=5),))
    assert dump_identity(changed, always) == {
        "section": {"old": 1, "new": 3},
        "later": [{"old": 5}],
    }
