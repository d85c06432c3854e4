"""A folder that the commit before wrote opens afterwards, and what is read of it is the same."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from earlier_state import DATA, read_all

pytestmark = pytest.mark.integration


def difference(actual: Any, expected: Any, place: str) -> str | None:
    """Where two answers first differ; floats count as the same to nine digits."""
    if isinstance(actual, dict) and isinstance(expected, dict):
        if actual.keys() != expected.keys():
            return f"{place}: {sorted(actual)} instead of {sorted(expected)}"
        inside = [(actual[name], expected[name], f"{place}.{name}") for name in expected]
    elif isinstance(actual, list) and isinstance(expected, list):
        if len(actual) != len(expected):
            return f"{place}: {len(actual)} entries instead of {len(expected)}: {actual}"
        inside = [(a, expected[n], f"{place}[{n}]") for n, a in enumerate(actual)]
    elif isinstance(actual, float) and isinstance(expected, float):
        same = math.isclose(actual, expected, rel_tol=1e-9, abs_tol=1e-9)
        return None if same else f"{place}: {actual} instead of {expected}"
    else:
        same = type(actual) is type(expected) and actual == expected
        return None if same else f"{place}: {actual!r} instead of {expected!r}"
    return next(filter(None, (difference(*pair) for pair in inside)), None)


def test_a_folder_of_the_commit_before_reads_as_it_did(tmp_path: Path) -> None:
    expected = json.loads((DATA / "expected.json").read_text())
    actual = dict(read_all(DATA, tmp_path / "home"))
    assert set(actual) == set(expected)
    differences = [difference(actual[name], expected[name], name) for name in expected]
    assert list(filter(None, differences)) == []
