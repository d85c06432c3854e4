"""Which online store the settings name, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from sunloom.config import Settings, load_config
from sunloom.config.feature_store import EmbeddedOnline, RedisOnline
from sunloom.errors import ConfigError, StoreError
from sunloom.feature_store.stores.online.lmdb import EmbeddedStore
from sunloom.feature_store.stores.online.open import open_online_store


def test_embedded_is_the_default(settings: Settings) -> None:
    assert settings.feature_store.online == EmbeddedOnline()
    store = open_online_store(settings)
    assert isinstance(store, EmbeddedStore)
    assert open_online_store(settings) is store


@pytest.mark.parametrize(
    "url",
    ["http://host", "redis://user:word@host/0", "rediss://:word@host", "unix:///s?password=word"],
)
def test_an_address_that_is_none_or_tells_a_secret(url: str) -> None:
    with pytest.raises(ValidationError, match=r"begins with redis|contains user or password"):
        RedisOnline(url=url)


def test_unknown_kinds_and_keys_name_the_known_ones(project_root: Path) -> None:
    for wrong, shown in (("type=rediss", "redis"), ("type=redis", None)):
        sets = [f"feature_store.online.{wrong}", "feature_store.online.urll=redis://h"]
        with pytest.raises(ConfigError) as caught:
            load_config(Settings, sets=sets, conf_dir=project_root / "conf")
        assert (shown or "url") in str(caught.value)


def test_no_password_in_the_error(settings: Settings) -> None:
    online = RedisOnline(url="redis://127.0.0.1:1/0", password="secret-word", timeout_s=0.2)
    chosen = settings.feature_store.model_copy(update={"online": online})
    store = open_online_store(settings.model_copy(update={"feature_store": chosen}))
    with pytest.raises(StoreError, match=r"redis://127\.0\.0\.1:1/0 does not answer") as caught:
        store.feature_sets()
    assert "secret-word" not in str(caught.value)
