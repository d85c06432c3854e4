"""Values as JSON and as cells."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from sunloom.cli import output


@dataclass
class Point:
    x: float


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, None),
        (math.inf, None),
        (1.5, 1.5),
        (Point(2.0), {"x": 2.0}),
        (Path("a/b"), "a/b"),
        (np.int64(3), 3),
        ({1: (True, None)}, {"1": [True, None]}),
        (datetime(1997, 1, 2, tzinfo=UTC), "1997-01-02T00:00:00+00:00"),
    ],
)
def test_anything_becomes_plain(value: object, expected: object) -> None:
    assert output.to_plain(value) == expected
    json.dumps(output.to_plain(value), allow_nan=False)


def test_a_cell_is_never_markup(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("what",), [("[red]x[/red]",)])
    assert "[red]x[/red]" in capsys.readouterr().out


def test_cells() -> None:
    assert [output.format_cell(v) for v in (None, 0.123456, 12, {"a": 1})] == [
        "-",
        "0.1235",
        "12",
        '{"a": 1}',
    ]
