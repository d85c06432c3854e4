"""The tree is laid out as the design says, and packaging agrees with it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

SOURCES = ("platform", "jobs", "serve_apps")
TOO_VAGUE = {"utils.py", "util.py", "helpers.py", "helper.py", "manager.py", "common.py", "misc.py"}


def source_files(root: Path) -> list[Path]:
    return [file for folder in SOURCES for file in sorted((root / folder).rglob("*.py"))]


def test_platform_is_a_source_root_not_a_package(project_root: Path) -> None:
    assert not (project_root / "platform" / "__init__.py").exists()


def test_the_standard_library_wins_from_the_projects_root(project_root: Path) -> None:
    code = "import platform, sunloom; print(platform.system(), platform.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project_root, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Linux ")
    assert str(project_root) not in done.stdout.split()[1] or ".venv" in done.stdout


def test_the_wheel_holds_every_package(project_root: Path) -> None:
    project = tomllib.loads((project_root / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    found = [
        f"platform/{path.parent.name}" for path in (project_root / "platform").glob("*/__init__.py")
    ]
    assert sorted(packages) == sorted(found)


def test_every_folder_of_modules_is_a_package(project_root: Path) -> None:
    folders = {file.parent for file in (project_root / "platform").rglob("*.py")}
    assert [str(f) for f in sorted(folders) if not (f / "__init__.py").exists()] == []


def test_no_file_has_a_name_that_says_nothing(project_root: Path) -> None:
    assert [str(f) for f in source_files(project_root) if f.name in TOO_VAGUE] == []


def test_serve_builders_keep_their_annotations_real(project_root: Path) -> None:
    """Ray sees a string instead of the args class otherwise, and skips validation in silence."""
    postponed = [
        str(file)
        for file in sorted((project_root / "serve_apps").glob("*.py"))
        if "from __future__ import annotations" in file.read_text()
    ]
    assert postponed == []


def test_nothing_unfinished_is_shipped(project_root: Path) -> None:
    words = ("TODO", "FIXME", "XXX", "NotImplementedError")
    found = [
        f"{file.relative_to(project_root)}: {word}"
        for file in source_files(project_root)
        for word in words
        if word in file.read_text()
    ]
    assert found == []


@pytest.mark.parametrize("name", ["conf", "jobs", "serve_apps", "tests", "requirements", "deploy"])
def test_the_top_level_is_the_fixed_one(project_root: Path, name: str) -> None:
    assert (project_root / name).is_dir()


def test_jobs_and_apps_import_what_there_is(project_root: Path) -> None:
    """Read, not imported: they load the heavy libraries."""
    missing = []
    for folder in ("jobs", "serve_apps"):
        for file in sorted((project_root / folder).glob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
                    "sun"
                ):
                    continue
                module = project_root / "platform" / (node.module or "").replace(".", "/")
                source = module.with_suffix(".py")
                text = (source if source.is_file() else module / "__init__.py").read_text()
                missing += [
                    f"{file.name}: {node.module}.{alias.name}"
                    for alias in node.names
                    if not re.search(rf"\b{alias.name}\b", text)
                    and not (module / f"{alias.name}.py").is_file()
                ]
    assert missing == []
