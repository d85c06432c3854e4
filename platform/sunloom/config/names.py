"""Names of models, aliases and whatever else a registry holds: one rule for all of them.

Such a name becomes a part of a URL, a folder of the artifact store and a word in a log: letters,
digits, dots, underscores and dashes are the same in all three, and none of them leads elsewhere.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LONGEST_NAME = 100
"""Most characters of a name."""
LONGEST_ALIAS = 60
"""Most characters of an alias."""


def check_name(text: str, longest: int = LONGEST_NAME) -> str:
    """The name, unchanged.

    Args:
        text: The name.
        longest: Most characters.

    Raises:
        ValueError: It holds other characters, begins with none of the alphabet or is too long.
    """
    if len(text) > longest or not _NAME.fullmatch(text):
        raise ValueError(
            f"a name has 1 to {longest} letters, digits, '.', '_' and '-', the first a letter or "
            "a digit"
        )
    return text


def check_alias(text: str) -> str:
    """The alias, unchanged.

    Raises:
        ValueError: It is no name, or a number, which would shadow a version.
    """
    check_name(text, LONGEST_ALIAS)
    if text.isdigit():
        raise ValueError("an alias is a word such as production; a number would shadow a version")
    return text


Name = Annotated[str, AfterValidator(check_name)]
"""A name in a registry."""
Alias = Annotated[str, AfterValidator(check_alias)]
"""A movable name for a version."""
