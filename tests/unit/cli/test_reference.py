"""The configuration reference is made from the schema."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from sunloom.cli.config import reference_rows, type_name
from sunloom.config.loading.model import Model


class Small(Model):
    """A variant."""

    type: Literal["small"] = "small"
    size: int = 3
    """How small."""


class Large(Model):
    """Another variant."""

    type: Literal["large"] = "large"


class Thing(Model):
    """A thing."""

    password: SecretStr | None = None
    """A secret."""
    name: str
    """Its name."""
    kind: Annotated[Small | Large, Field(discriminator="type")] = Small()
    """Which."""
    parts: tuple[Small, ...] = ()
    """Its parts."""


def test_rows_name_key_type_default_and_meaning() -> None:
    found = {row[0]: row[1:] for row in reference_rows(Thing)}
    assert found["password"] == ("secret or empty", "empty", "A secret.")
    assert found["name"] == ("str", "required", "Its name.")
    assert found["kind.size (`type: small`)"] == ("int", "`3`", "How small.")
    assert found["parts"] == ("list of section", "none", "Its parts.")
    assert "parts[].size (`type: small`)" in found


def test_types_in_words() -> None:
    assert type_name(Literal["a", "b"]) == "`a` or `b`"
    assert type_name(dict[str, int]) == "mapping"
