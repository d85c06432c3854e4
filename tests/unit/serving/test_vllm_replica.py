"""What the language app's replica does before its engine starts."""

from __future__ import annotations

import os

import pytest

from sunloom.serving.apps.llm.vllm_replica import disable_compilation_without_compiler

VARIABLE = "TORCH_COMPILE_DISABLE"


@pytest.mark.parametrize(("compiler", "expected"), [("sh", None), ("no-such-compiler", "1")])
def test_compilation_is_disabled_where_no_compiler_is(
    compiler: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv(VARIABLE, "unset below, so that it is restored")
    monkeypatch.delenv(VARIABLE)
    disable_compilation_without_compiler()
    assert os.environ.get(VARIABLE) == expected
