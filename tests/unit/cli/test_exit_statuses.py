"""Exit statuses: 2 for a name, a key or a file that the user got wrong, 1 for work that failed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from typer.main import get_command

from sunloom.cli import main

# Nothing listens there: whatever got past the check of its arguments ends with status 1.
NOWHERE = "http://127.0.0.1:9"
GATEWAY = f"--url {NOWHERE} --key sl-x"
FEATURES = "conf/features/customer.yaml"
HISTORICAL = "--out {tmp}/out.parquet --entities {tmp}/rows.csv --source customer={tmp}/rows.csv"

# Command to arguments, in each of which one name, key or file is wrong.
WRONG: dict[str, list[str]] = {
    "doctor": ["--set paths.stat=x"],
    "demo": ["--set sed=1", "--set serving.port=many"],
    "config show": ["none.yaml", "--kind non"],
    "config check": ["none.yaml", "{tmp}/broken.yaml --kind features", f"{FEATURES} --kind non"],
    "config reference": ["--writ"],
    "data register": ["own none.jsonl", "own/2 {tmp}/rows.csv"],
    "data run": ["none.yaml", "conf/data/cdnow.yaml --set dataset=cdnov", "conf"],
    "features list": ["--definitions none.py", "--definitions nobody"],
    "features plan": ["customr", "--definitions none.py"],
    "features historical": [
        f"--definitions retail --feature-set custome {HISTORICAL}",
        f"--definitions retai --feature-set customer {HISTORICAL}",
        f"--definitions retail --feature-set customer {HISTORICAL} --source none={{tmp}}/rows.csv",
        f"--definitions retail --feature-set customer {HISTORICAL} --entities none.parquet",
        f"--definitions retail --feature-set customer {HISTORICAL} --source purchase=none.csv",
        f"--definitions retail --feature-set customer {HISTORICAL} --engine pola",
    ],
    "features materialize": ["none.yaml", f"{FEATURES} --set feature_set=custome"],
    "features compare": ["none.yaml", f"{FEATURES} --set feature_sett=customer"],
    "features backfill": ["--recipe none.yaml", f"--recipe {FEATURES} --start yesterday"],
    "features get": ["custome 1"],
    "features validate": [
        "--recipe none.yaml --input {tmp}/rows.csv",
        "--recipe conf/validation/purchases.yaml --input none.csv",
        "--recipe {tmp}/rules.yaml --input {tmp}/rows.csv --set validation.keys=[idd]",
        "--recipe {tmp}/rules.yaml --input {tmp}/rows.csv --reference none.csv",
    ],
    "features monitor": [
        "none.yaml",
        "conf/monitoring/drift.yaml --every often",
        "conf/monitoring/drift.yaml --set events.path=none.parquet",
        "conf/monitoring/drift.yaml --set events.path={tmp}/rows.parquet",
    ],
    "features versions": ["custome"],
    "features rows": ["custome --out {tmp}/out.parquet"],
    "features stream": ["none.yaml", FEATURES],
    "features skew": ["none.yaml", FEATURES],
    "features fit": [
        "--recipe none.yaml --input {tmp}/rows.csv --artifact {tmp}/fitted",
        "--recipe conf/preparation/wine.yaml --input none.csv --artifact {tmp}/fitted",
        "--recipe conf/preparation/wine.yaml --input {tmp}/rows.csv --artifact {tmp}/fitted",
    ],
    "features transform": [
        "--artifact none@1 --input {tmp}/rows.csv --out {tmp}/out.parquet",
        "--artifact {tmp} --input {tmp}/rows.csv --out {tmp}/out.parquet",
    ],
    "features graph": [
        "--input none.csv --out {tmp}/out.parquet",
        "--input {tmp}/rows.csv --out {tmp}/out.parquet",
        "--config none.yaml",
    ],
    "tabular train": ["none.yaml", "conf/tabular/repurchase.yaml --set rows.train_path=none"],
    "tabular evaluate": ["none.yaml", "conf/tabular/repurchase.yaml --model none@1"],
    "llm prepare": ["none.yaml", "conf/llm/tool_base.yaml --set data.train=[{{path:none}}]"],
    "llm plan": ["none.yaml", "conf/llm/tool_base.yaml --set training.step=1"],
    "llm train": ["none.yaml", "conf/llm/retail_agent.yaml --set model.base_model=non@3"],
    "llm tune": [
        "none.yaml",
        "conf/llm/retail_agent.yaml",
        "conf/llm/tune.yaml --set tune.trial=1",
    ],
    "llm watch": [f"raysubmit_1 --url {NOWHERE} --key="],
    "llm stop": [f"raysubmit_1 --url {NOWHERE} --key="],
    "llm resume": [f"raysubmit_1 --url {NOWHERE} --key="],
    "llm evaluate": ["none.yaml", "conf/llm/tool_base.yaml --set output.name=none"],
    "llm publish": ["none.json own", "none.json own --set paths.stat=x"],
    "llm votes": ["none"],
    "llm merge": ["none@1", "none --set paths.stat=x"],
    "llm quantize": [
        "none@1 --recipe conf/llm/tool_base.yaml",
        "tool-base --recipe none.yaml",
        "tool-base --recipe conf/llm/tool_base.yaml --to int2",
    ],
    "llm generate": ["hello --model x --key", "hello --model x --key= --url " + NOWHERE],
    "models list": ["--set paths.stat=x"],
    "models add": ["none"],
    "models export": ["none {tmp}/out", "none@7 {tmp}/out"],
    "models show": ["none", "none@7"],
    "models promote": ["none@1", "none"],
    "job submit": [f"none --address {NOWHERE}", f"data_prepare --config no --address {NOWHERE}"],
    "job status": ["x --env prod"],
    "job logs": ["x --env prod"],
    "job stop": ["x --env prod"],
    "job list": ["--env prod"],
    "serve run": ["--port many", "--set serving.ports=1"],
    "serve deploy": ["", "--set serving.ports=1"],
    "serve status": ["--set serving.ports=1"],
    "serve shutdown": ["--set serving.ports=1"],
    "agents create": ["none.yaml " + GATEWAY, f"conf/agentic/retail.yaml --agent none {GATEWAY}"],
    "agents task": [f"agent_1 hello --url {NOWHERE} --key="],
    "agents status": [f"agent_1 --url {NOWHERE} --key="],
    "agents events": [f"agent_1 task_1 --url {NOWHERE} --key="],
    "agents run": [f"conf/agentic/retail.yaml hello --agent none {GATEWAY}"],
    "agents list": [f"--url {NOWHERE} --key="],
    "agents delete": [f"agent_1 --url {NOWHERE} --key="],
    "agents approve": [f"agent_1 task_1 --url {NOWHERE} --key="],
    "agents export": ["own --agent none", "own --set paths.stat=x"],
    "keys create": ["--scopes llmm", "--scopes llm --expires soon"],
    "keys list": ["--set paths.stat=x"],
    "keys revoke": ["none"],
}
# Nothing is wrong with these: what they need does not respond, or does not pass.
FAILED: dict[str, str] = {
    "features validate": "--recipe {tmp}/rules.yaml --input {tmp}/rows.csv",
    "llm generate": f"hello --model x {GATEWAY}",
    "llm watch": f"raysubmit_1 {GATEWAY}",
    "llm stop": f"raysubmit_1 {GATEWAY}",
    "llm resume": f"raysubmit_1 {GATEWAY}",
    "job list": f"--address {NOWHERE}",
    "serve status": "",
    "serve shutdown": "",
    "agents create": f"conf/agentic/retail.yaml {GATEWAY}",
    "agents task": f"agent_1 hello {GATEWAY}",
    "agents status": f"agent_1 {GATEWAY}",
    "agents events": f"agent_1 task_1 {GATEWAY}",
    "agents run": f"conf/agentic/retail.yaml hello {GATEWAY}",
    "agents list": GATEWAY,
    "agents delete": f"agent_1 {GATEWAY}",
    "agents approve": f"agent_1 task_1 {GATEWAY}",
    "agents export": "own",
    "features monitor": "conf/monitoring/drift.yaml --set events.path={tmp}/empty.parquet",
}


def commands() -> Iterator[str]:
    def walk(command: object, words: tuple[str, ...]) -> Iterator[str]:
        children = getattr(command, "commands", None)
        if children is None:
            yield " ".join(words)
            return
        for name, child in children.items():
            yield from walk(child, (*words, name))

    yield from walk(get_command(main.app), ())


# All in one process, with the commands built once: it is the imports that take time.
WALK = """
import contextlib, io, json, sys
from typer.main import get_command
from sunloom.cli import main
main.app = get_command(main.app)
outcomes = []
for command, words, _ in json.load(sys.stdin):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main.run([*command.split(), *words.split()])
            status = None
        except SystemExit as end:
            status = end.code
    outcomes.append([status, printed.getvalue()])
json.dump(outcomes, sys.stdout)
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text("id,event_time\n1,2025-05-02T00:00:00Z\n,\n")
    (tmp_path / "broken.yaml").write_text("feature_set: [")
    (tmp_path / "rules.yaml").write_text("validation: {columns: {id: {completeness: 1.0}}}")
    pl.DataFrame({"id": [1]}).write_parquet(tmp_path / "rows.parquet")
    events = {"customer_id": pl.Int64, "timestamp": pl.Datetime("us", "UTC"), "amount": pl.Float64}
    pl.DataFrame(schema=events).write_parquet(tmp_path / "empty.parquet")
    (tmp_path / "tmp").mkdir()
    return tmp_path


def test_wrong_usage_is_2_and_failed_work_is_1(files: Path, project_root: Path) -> None:
    assert set(commands()) - set(WRONG) == set()
    cases = [(command, words, 2) for command, many in WRONG.items() for words in many]
    cases += [(command, words, 1) for command, words in FAILED.items()]
    cases = [(command, words.format(tmp=files), status) for command, words, status in cases]
    own = {
        "PYTHONPATH": str(project_root / "platform"),
        "SUNLOOM__PATHS__STATE": str(files / "state"),
        "SUNLOOM__PATHS__OUTPUTS": str(files / "outputs"),
        "TMPDIR": str(files / "tmp"),
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SUNLOOM", "RAY_"))}
    walk = subprocess.run(
        [sys.executable, "-c", WALK],
        input=json.dumps(cases),
        cwd=project_root,
        env=inherited | own,
        capture_output=True,
        text=True,
        check=True,
    )
    outcomes = json.loads(walk.stdout)
    wrong = [
        (command, words, found, printed)
        for (command, words, status), (found, printed) in zip(cases, outcomes, strict=True)
        if found != status or not printed.strip() or "Traceback" in printed
    ]
    assert wrong == []
    # What is wrong is found before a cluster starts, which takes seconds.
    assert list((files / "tmp").glob("sunloom-*")) == []
