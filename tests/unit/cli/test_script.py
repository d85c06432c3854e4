"""The script itself: what a user types and what comes back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.unit.cli.conftest import Cli


def test_version(project_root: Path) -> None:
    """In an interpreter of its own, as the installed script; the other commands are forked."""
    done = subprocess.run(
        [sys.executable, "-c", "from sunloom.cli.main import run; run()", "--version"],
        env=os.environ | {"PYTHONPATH": str(project_root / "platform")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "sunloom 0.1.0\n")


def test_an_unknown_key_exits_2_and_names_file_key_and_nearest(cli: Cli, tmp_path: Path) -> None:
    recipe = tmp_path / "data" / "typo.yaml"
    recipe.parent.mkdir()
    recipe.write_text(yaml.safe_dump({"dataset": "cdnow", "quality": {"max_bad_shar": 0.1}}))
    done = cli("data", "run", str(recipe))
    assert done.status == 2
    assert str(recipe) in done.err
    assert "max_bad_shar'" in done.err
    assert "Did you mean 'max_bad_share'?" in done.err.replace("quality.", "")
    assert "Traceback" not in done.err


def test_a_missing_recipe_exits_2_and_lists_what_is_there(cli: Cli) -> None:
    done = cli("data", "run", "conf/data/nope.yaml")
    assert done.status == 2
    assert "conf/data/nope.yaml" in done.err
    assert "cdnow.yaml" in done.err


def test_an_unknown_option_and_an_unknown_command_exit_2(cli: Cli) -> None:
    assert cli("models", "list", "--nope").status == 2
    assert cli("modls").status == 2


def test_show_prints_every_value_with_its_layer(cli: Cli) -> None:
    done = cli("config", "show", "--set", "serving.port=9001", "--json", SUNLOOM__SEED="7")
    assert done.status == 0
    assert done.json["serving.port"] == {"value": 9001, "origin": "--set serving.port"}
    assert done.json["seed"] == {"value": 7, "origin": "environment variable SUNLOOM__SEED"}
    assert done.json["cluster.dashboard_host"]["origin"] == "default"


def test_a_secret_is_never_printed(cli: Cli) -> None:
    url = "postgresql+psycopg://user:hunter2@127.0.0.1/db"
    for words in (("config", "show"), ("config", "show", "--json")):
        done = cli(*words, SUNLOOM__DATABASE__URL=url)
        assert done.status == 0
        assert "hunter2" not in done.out + done.err
        assert "***" in done.out


def test_check_reports_every_bad_recipe_and_exits_2(cli: Cli, tmp_path: Path) -> None:
    recipe = tmp_path / "x.yaml"
    recipe.write_text("dataset: cdnow\npreparation: {blocks: 0}\n")
    done = cli("config", "check", str(recipe), "--kind", "data", "--json")
    assert done.status == 2
    verdicts = {row["file"]: row["ok"] for row in done.json["files"]}
    assert verdicts == {"settings": True, str(recipe): False}


def test_check_takes_values_of_the_recipe_and_of_the_settings(cli: Cli) -> None:
    sets = ("--set", "quality.max_bad_share=0.5", "--set", "seed=3")
    done = cli("config", "check", "conf/data/cdnow.yaml", *sets, "--json")
    assert (done.status, done.json["ok"]) == (0, True)
    wrong = cli("config", "check", "conf/data/cdnow.yaml", "--set", "quality.max_bad=1", "--json")
    assert [row["ok"] for row in wrong.json["files"]] == [True, False]


def test_a_recipe_outside_conf_is_recognised_by_its_keys(cli: Cli, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("dataset: cdnow\npreparation: {blocks: 3}\n")
    done = cli("config", "show", str(recipe), "--json")
    assert done.status == 0
    assert done.json["preparation.blocks"] == {"value": 3, "origin": str(recipe)}


def test_a_key_is_created_listed_and_revoked(cli: Cli) -> None:
    created = cli("keys", "create", "--scopes", "llm,features", "--tenant", "shop", "--json").json
    assert created["key"].startswith("sl-")
    (listed,) = cli("keys", "list", "--json").json
    assert (listed["id"], listed["tenant"]) == (created["id"], "shop")
    assert listed["scopes"] == ["llm", "features"]
    assert created["key"] not in str(listed)
    assert cli("keys", "revoke", created["id"], "--json").json["revoked_at"]


def test_an_unknown_scope_exits_2_with_the_known_ones(cli: Cli) -> None:
    done = cli("keys", "create", "--scopes", "llmm")
    assert done.status == 2
    assert "features, ingest, agents, train, models, admin" in done.err


def test_an_unknown_job_is_refused_with_the_known_ones(cli: Cli) -> None:
    done = cli("job", "submit", "prepare_dat", "--address", "http://127.0.0.1:9")
    assert done.status == 2
    assert "There is no job 'prepare_dat'." in done.err
    assert "Known" in done.err


def test_commands_that_need_a_key_say_how_to_get_one(cli: Cli) -> None:
    done = cli("agents", "status", "agent_1", SUNLOOM_KEY="")
    assert done.status == 2
    assert "sunloom keys create" in done.err


def test_doctor_finds_the_locked_packages(cli: Cli) -> None:
    done = cli("doctor", "--no-probe", "--json")
    assert done.status == 0
    found = {check["name"]: check for check in done.json["checks"]}
    assert found["core packages"]["status"] == "ok"
    assert "ray 2.60.0" in found["core packages"]["detail"]
    assert int(found["cores"]["detail"]) >= 1
    assert found["haproxy"]["status"] == "ok"
