"""The list of tests that take longer than half a minute names tests that exist, with reasons."""

from __future__ import annotations

import ast
from pathlib import Path

from slow_tests import LIST, SLOW_S, listed_tests, slow_tests

ROOT = LIST.parents[1]


def functions_of(path: Path) -> set[str]:
    """Names of the test functions of a module."""
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_each_listed_test_exists_and_has_a_reason() -> None:
    listed = listed_tests()
    assert len(listed) == LIST.read_text().count("[[slow]]"), "a test is listed twice"
    for test, reason in listed.items():
        file, _, name = test.partition("::")
        assert name in functions_of(ROOT / file), test
        assert len(reason.split()) >= 4, test


def test_the_summary_names_what_is_slow_and_not_listed() -> None:
    durations = {
        "tests/a.py::test_listed[1]": SLOW_S + 1,
        "tests/a.py::test_quick": SLOW_S - 1,
        "tests/a.py::test_slow[x]": SLOW_S + 2,
    }
    listed = {"tests/a.py::test_listed": "starts a broker and three consumers"}
    assert slow_tests(durations, listed) == {"tests/a.py::test_slow[x]": SLOW_S + 2}
