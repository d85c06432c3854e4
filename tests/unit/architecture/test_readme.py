"""What the documents tell people to type can be typed."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from sunloom.cli import main

ROOT = Path(__file__).parents[3]
DOCUMENTS = ("README.md", "conf/README.md", "requirements/README.md", "docs/security.md")
SHELLS = {"", "bash", "sh", "shell", "console"}
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
# A command ends where the shell ends it; quotes are kept together.
COMMAND = r"""(?:^|[\s(;&|/]){word}\s+((?:"[^"]*"|'[^']*'|[^)|&;\n])*)"""


def blocks(languages: set[str]) -> list[str]:
    return [
        text
        for name in DOCUMENTS
        for language, text in BLOCK.findall((ROOT / name).read_text())
        if language in languages
    ]


def inline() -> list[str]:
    return [
        code
        for name in DOCUMENTS
        for code in re.findall(r"`([^`\n]+)`", BLOCK.sub("", (ROOT / name).read_text()))
    ]


def shell_lines() -> Iterator[str]:
    for text in blocks(SHELLS):
        for line in text.replace("\\\n", " ").splitlines():
            yield re.sub(r"(^|\s)#.*", "", line).strip()


def typed(word: str) -> list[str]:
    pattern = re.compile(COMMAND.format(word=word))
    return sorted({found.strip() for line in shell_lines() for found in pattern.findall(line)})


def words_of(text: str) -> list[str]:
    return [word for word in shlex.split(text, comments=True) if not word.startswith((">", "<"))]


@pytest.mark.parametrize("text", typed("sunloom") or [""])
def test_a_sunloom_line_parses(text: str) -> None:
    command, words = get_command(main.app), words_of(text)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"sunloom {text}: no {words[0]!r}"
        command = command.commands[words.pop(0)]
    if not hasattr(command, "commands"):
        command.make_context("sunloom", words)


@pytest.mark.parametrize("text", typed("make"))
def test_a_make_line_names_a_target(text: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in words_of(text):
        if "=" not in word:
            assert re.search(rf"^{re.escape(word)}:", makefile, re.M), f"make {word}"


@pytest.mark.parametrize("text", typed(r"python -m"))
def test_a_python_line_names_a_module_and_its_recipe(text: str) -> None:
    module, *rest = words_of(text)
    assert importlib.util.find_spec(module) is not None, module
    files = [word for word in rest if word.startswith("conf/")]
    assert [name for name in files if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("text", blocks({"python"}) or ["pass"])
def test_a_python_block_compiles_and_its_imports_exist(text: str) -> None:
    tree = ast.parse(text)
    modules = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]
    modules += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


def test_the_two_commands_are_there() -> None:
    lines = set(typed("make"))
    assert {"demo", "test"} <= {line.split()[0] for line in lines if line}


def test_what_the_page_on_security_names_exists() -> None:
    """Each threat has a module and a test; ``::test`` is one of the file named before it."""
    rows = [
        line.split(" | ")
        for line in (ROOT / "docs" / "security.md").read_text().splitlines()
        if line.startswith("| ") and "`" in line
    ]
    assert len(rows) >= 35
    for *_, modules, tests in rows:
        for name in re.findall(r"`([^`]+)`", modules):
            assert (ROOT / name).exists() or (ROOT / "platform/sunloom" / name).exists(), name
        references = re.findall(r"`([\w/.]*)::(\w+)`", tests)
        assert references, tests
        file = ""
        for named, test in references:
            file = named or file
            assert f"def {test}(" in (ROOT / "tests" / file).read_text(), (file, test)


def test_files_that_documents_name_exist() -> None:
    pattern = re.compile(r"^(?:conf|requirements|deploy|jobs|serve_apps|platform)/[\w./-]+\.\w+$")
    named = {code for code in inline() if pattern.match(code)}
    lines = {word for line in shell_lines() for word in line.split() if pattern.match(word)}
    assert sorted(name for name in named | lines if not (ROOT / name).exists()) == []
