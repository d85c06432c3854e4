"""Exit codes, error messages and the JSON promise of the command line."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest
import typer
from typer.main import get_command

from sunloom.cli import main
from sunloom.errors import ConfigError, DataError, NotFoundError

# Commands that print no result of their own.
WITHOUT_JSON = {"config reference"}


def commands() -> Iterator[tuple[str, object]]:
    """Every leaf command by its words."""

    def walk(command: object, words: tuple[str, ...]) -> Iterator[tuple[str, object]]:
        children = getattr(command, "commands", None)
        if children is None:
            yield " ".join(words), command
            return
        for name, child in children.items():
            yield from walk(child, (*words, name))

    yield from walk(get_command(main.app), ())


def test_every_command_of_the_contract_is_there() -> None:
    wanted = {
        "doctor", "demo", "config show", "config check", "data run",
        "features list", "features plan", "features historical", "features materialize",
        "features compare",
        "features get", "tabular train", "tabular evaluate", "llm plan", "llm train",
        "llm evaluate", "llm generate", "models list", "models show", "models promote",
        "job submit", "job status", "job logs", "job stop", "job list", "serve run",
        "serve deploy", "serve status", "serve shutdown", "agents create", "agents task",
        "agents status", "agents events", "agents run", "agents list",
        "agents delete", "agents approve", "keys create", "keys list",
        "keys revoke",
    }  # fmt: skip
    assert wanted - {name for name, _ in commands()} == set()


def test_every_command_says_what_it_does_and_offers_json() -> None:
    silent = []
    for name, command in commands():
        options = {option for p in command.params for option in p.opts}  # type: ignore[attr-defined]
        if not command.help or ("--json" not in options and name not in WITHOUT_JSON):  # type: ignore[attr-defined]
            silent.append(name)
    assert silent == []


@pytest.mark.parametrize(
    ("error", "status", "lines"),
    [
        (ConfigError("conf/x.yaml: unknown key 'sed'.", "Did you mean 'seed'?"), 2, 2),
        (DataError("No column 'id'.", "Found: a, b"), 1, 2),
        (ValueError("odd"), 1, 2),
        (OSError(errno.ENOSPC, "No space left on device"), 1, 2),
    ],
)
def test_an_error_becomes_message_hint_and_status(
    error: Exception, status: int, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.report(error) == status
    shown = capsys.readouterr().err.strip().splitlines()
    assert len(shown) == lines
    assert shown[0].startswith("error: ")
    assert "Traceback" not in "\n".join(shown)


def test_an_error_from_a_ray_task_is_shown_as_its_cause(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Wrapped(Exception):
        cause = NotFoundError("There is no model 'x'.", known=["tool-base"], name="x")

    assert main.report(Wrapped("remote traceback")) == 2
    err = capsys.readouterr().err
    assert "There is no model 'x'." in err
    assert "remote traceback" not in err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise DataError("broken")

    monkeypatch.setattr(main, "app", app)
    with pytest.raises(DataError, match="broken"):
        main.run(["--debug"])
    with pytest.raises(SystemExit) as ended:
        main.run([])
    assert ended.value.code == 1
