"""Arrows point down, and what should be cheap to import is."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import sunloom

HEAVY = (
    "ray", "torch", "polars", "chalk", "vllm", "transformers", "peft", "deepspeed", "crewai",
    "semantic_kernel", "evidently", "pandas", "matplotlib", "sklearn", "fastapi", "pyarrow",
    "numpy", "openai", "sqlalchemy",
)  # fmt: skip
# A room's door may use tables and the database, never the engines behind them.
ENGINES = ("torch", "vllm", "transformers", "crewai", "semantic_kernel", "evidently", "matplotlib")
ENGINES += ("chalk", "ray.data", "ray.serve", "ray.train", "deepspeed", "pandas")
ROOMS = ("agents", "core", "data", "features", "feature_store", "llm", "monitoring")
ROOMS += ("preprocessing", "serving", "tabular", "workflows")


def loaded_by(code: str, names: tuple[str, ...], root: Path) -> list[str]:
    """Which of ``names`` a fresh interpreter has loaded after ``code``."""
    program = f"import sys\n{code}\nprint([n for n in {names!r} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[str] = ast_list(done.stdout.strip().splitlines()[-1])
    return found


def ast_list(text: str) -> list[str]:
    import ast

    return [str(item) for item in ast.literal_eval(text)]


def test_arrows_only_point_down(project_root: Path) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports")],
        cwd=project_root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_help_loads_nothing_heavy(project_root: Path) -> None:
    code = """
from sunloom.cli.main import run
try:
    run(["--help"])
except SystemExit as ended:
    assert ended.code == 0
"""
    assert loaded_by(code, HEAVY, project_root) == []


@pytest.mark.parametrize("module", ["sunloom.config", "sunloom.errors", "sunloom.config.settings"])
def test_configuration_loads_nothing_heavy(module: str, project_root: Path) -> None:
    assert loaded_by(f"import {module}", HEAVY, project_root) == []


def test_the_doors_of_all_rooms_load_no_engine(project_root: Path) -> None:
    code = "\n".join(f"import sunloom.{room}" for room in ROOMS)
    assert loaded_by(code, ENGINES, project_root) == []


def packages() -> list[str]:
    found = pkgutil.walk_packages(sunloom.__path__, "sunloom.", onerror=lambda _: None)
    return [module.name for module in found if module.ispkg]


@pytest.mark.parametrize("name", packages())
def test_a_public_door_is_sorted_complete_and_documented(name: str) -> None:
    package = importlib.import_module(name)
    public = list(getattr(package, "__all__", []))
    # Constants, classes, functions: as the linter sorts them.
    assert public == sorted(public, key=lambda entry: (not entry.isupper(), entry))
    undocumented = []
    for entry in public:
        member = getattr(package, entry)
        if (inspect.isclass(member) or inspect.isroutine(member)) and not member.__doc__:
            undocumented.append(entry)
    assert undocumented == []
