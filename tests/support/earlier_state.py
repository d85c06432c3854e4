"""What can be read of a state folder, and done with it: the same before and after a change.

The readings of ``tests/data/state_before`` were taken by the commit that wrote it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import yaml
from typer.testing import CliRunner

from sunloom.agents.journal import Journal
from sunloom.agents.store import AgentStore
from sunloom.cli.main import app as commands
from sunloom.config import Settings, load_config
from sunloom.config.tabular import TabularRecipe
from sunloom.core.database import open_database
from sunloom.core.model_registry import open_registry
from sunloom.core.progress import read_progress
from sunloom.features.definitions.open import plan_of
from sunloom.llm.checkpoints import check
from sunloom.serving.auth.middleware import GatewayMiddleware, KeyAdmission
from sunloom.serving.deploy.applications import load_builder
from sunloom.serving.metrics.request_metrics import RequestMetrics
from sunloom.tabular.trainer import train_tabular

DATA = Path(__file__).parents[1] / "data" / "state_before"
BUILT_AT = "/var/tmp/sunloom-state"
"""Where the folder lay when it was written: absolute paths in its records begin so."""
FILES_TIME = 1_790_000_000
"""Modification time of the source tables, seconds since the epoch; git keeps none."""
MODEL_CALL = {"messages": [{"role": "user", "content": "Is SWR late?"}]}
TOOL_CALL = {"name": "get_features", "arguments": {"entity_id": "SWR"}}
CARRIERS = ["SWR", "DLH", "AFR", "XXX"]
MOMENTS = ["2026-11-21T00:00:00+00:00", "2026-11-21T18:30:00+00:00", "2026-11-25T00:00:00+00:00"]
EVENT = {
    "id": 9_100,
    "airport_id": "JFK",
    "carrier_id": "SWR",
    "left_at": "2026-11-21T17:00:00+00:00",
    "delay_minutes": 11.5,
}
PASSENGERS = [
    {"id": 1, "airport_id": "JFK", "minutes": 30.0, "cabin": "business", "remark": "kind crew"},
    {"id": 2, "airport_id": "QQQ", "minutes": None, "cabin": "sofa", "remark": None},
]


@dataclass
class State:
    """A copy of the folder that is the working directory, and what is known beside it.

    Attributes:
        home: Where the copy lies.
        keys: API keys in clear, by name.
        agent: The stored agent.
        tasks: Its tasks, by what became of them.
        run: The stored run.
    """

    home: Path
    keys: dict[str, str] = field(default_factory=dict)
    agent: str = ""
    tasks: dict[str, str] = field(default_factory=dict)
    run: str = ""


Reading = Callable[[State], Any]


@contextmanager
def at_home(home: Path) -> Iterator[None]:
    """Work in the folder, with its own settings and nothing else of this process's."""
    before, directory = dict(os.environ), Path.cwd()
    for name in [name for name in os.environ if name.startswith("SUNLOOM")]:
        del os.environ[name]
    os.environ |= {"SUNLOOM_HOME": str(home), "SUNLOOM_CONF": str(home / "conf")}
    os.chdir(home)
    try:
        yield
    finally:
        os.chdir(directory)
        for name in [name for name in os.environ if name.startswith("SUNLOOM")]:
            del os.environ[name]
        os.environ |= {k: v for k, v in before.items() if k.startswith("SUNLOOM")}


def settle_at(home: Path) -> None:
    """Make a copied folder what it would be had it been written where it lies now.

    A backfill is known by its sources' absolute paths, sizes and times, so a moved folder's
    records get those of this place. Nothing else depends on where the folder lies.
    """
    for path in home.glob("*.parquet"):
        os.utime(path, (FILES_TIME, FILES_TIME))
    for path in sorted(home.glob("made/features/*/backfill/*/parameters.json")):
        parameters = json.loads(path.read_text().replace(BUILT_AT, str(home)))
        path.write_text(json.dumps(parameters, indent=2) + "\n")
        text = json.dumps(parameters, sort_keys=True)
        path.parent.rename(path.parents[1] / hashlib.sha256(text.encode()).hexdigest()[:16])


def settings() -> Settings:
    """The folder's settings."""
    return load_config(Settings).config


def command(*words: str) -> dict[str, Any]:
    """Exit status and answer of ``sunloom WORDS… --json``."""
    done = CliRunner().invoke(commands, [*words, "--json"])
    # Its log went to a stream that is closed by now.
    logging.getLogger("sunloom").handlers.clear()
    text = done.stdout.strip()
    answer = json.loads(text) if text else None
    if done.exit_code and answer is None:
        answer = f"{type(done.exception).__name__}: {done.exception}"
    return {"exit": done.exit_code, "answer": answer}


def ask(app: str, key: str, *calls: tuple[str, str, Any], wait_s: float = 0.0) -> list[Any]:
    """Status and body of each request to an app behind its guard."""

    async def run() -> list[Any]:
        metrics = RequestMetrics(open_database(settings()), app)
        guarded = GatewayMiddleware(
            load_builder(app)(settings()), KeyAdmission(settings(), metrics), app
        )
        headers = {"Authorization": f"Bearer {key}"}
        transport = httpx.ASGITransport(app=guarded)
        found = []
        async with httpx.AsyncClient(
            transport=transport, base_url="http://gateway", headers=headers, timeout=60
        ) as client:
            for method, path, body in calls:
                answer = await client.request(method, path, json=body)
                is_json = answer.headers.get("content-type", "").startswith("application/json")
                found.append([answer.status_code, answer.json() if is_json else answer.text])
            await asyncio.sleep(wait_s)
        return found

    return asyncio.run(run())


def rows_of(path: Path) -> Any:
    """A Parquet file's rows as JSON has them."""
    return json.loads(pl.read_parquet(path).write_json())


def online(state: State) -> Any:
    """Records of the online store: lists, structs, nulls, a prepared set, one that has ended."""
    return {
        "carrier": command("features", "get", "carrier", *CARRIERS[:3]),
        "carrier_prepared": command("features", "get", "carrier_prepared", *CARRIERS[:3]),
        "unknown": command("features", "get", "carrier", "XXX"),
        "ended": command("features", "get", "departure", "1"),
        "http": ask(
            "features",
            state.keys["all"],
            ("GET", "/features", None),
            ("GET", "/features/carrier?entity_id=SWR", None),
            ("POST", "/features/batch", {"feature_set": "carrier", "entity_ids": CARRIERS}),
        ),
    }


def _at_moments() -> list[tuple[str, str, Any]]:
    body = {"feature_set": "airport", "entity_ids": ["BER", "JFK", "ZRH"]}
    return [("POST", "/features/batch", body | {"now": moment}) for moment in MOMENTS]


def stream(state: State) -> Any:
    """Tiles of a stream at three moments, and its log against them."""
    return {
        "moments": ask("features", state.keys["all"], *_at_moments()),
        "skew": command("features", "skew", "airport.yaml", "--questions", "40"),
    }


def ingest(state: State) -> Any:
    """One more event into the same tiles."""
    body = {"feature_set": "airport", "rows": [EVENT]}
    calls = [("POST", "/features/ingest", body), *_at_moments()]
    return ask("features", state.keys["all"], *calls)


def offline(state: State) -> Any:
    """Versions of the offline store and the rows of the first."""
    found = command("features", "versions", "carrier")
    out = state.home / "version1.parquet"
    command("features", "rows", "carrier", "--version", "1", "--out", str(out))
    return {"versions": found, "first": rows_of(out)}


def materialise(state: State) -> Any:
    """A third version on top of the two, and newer records on top of the earlier ones."""
    as_of = "online.as_of=2026-11-22T00:00:00Z"
    made = command("features", "materialize", "carrier.yaml", "--set", as_of)
    assert made["exit"] == 0, made
    made["answer"].pop("prepared_by", None)
    found = command("features", "versions", "carrier")
    assert found["exit"] == 0, found
    return {
        "made": made,
        "versions": [
            [one["version"], one["mode"], one["rows"]] for one in found["answer"]["versions"]
        ],
        "record": command("features", "get", "carrier", "SWR"),
    }


def prepared(state: State) -> Any:
    """Fitted artifacts: the folder, both registered versions, and rows over HTTP."""
    found = {}
    for name in ("prepared", "passengers@1", "passengers@production", "passengers@steady"):
        out = state.home / "ready.parquet"
        words = ("--artifact", name, "--input", "few.parquet", "--out", str(out))
        command("features", "transform", *words)
        found[name] = rows_of(out)
    body = {"artifact": "passengers", "rows": PASSENGERS}
    checked = {"feature_set": "carrier", "rows": [{"id": "SWR", "mean_delay": -900.0}]}
    found["http"] = ask("features", state.keys["all"], ("POST", "/features/transform", body))
    found["rules"] = ask("features", state.keys["all"], ("POST", "/features/validate", checked))
    return found


def models(state: State) -> Any:
    """The registry: versions, aliases, whole files, and a promotion."""
    registry = open_registry(settings())
    listed = command("models", "list")
    whole = {
        version.ref: sorted(path.name for path in registry.path(version).iterdir())
        for version in registry.list()
    }
    over_http = ask("gateway", state.keys["all"], ("GET", "/models", None))
    show = command("models", "show", "delays@production")
    promoted = command("models", "promote", "delays@1", "--alias", "steady")
    return [listed, whole, over_http, show, promoted, registry.aliases("delays")]


def predictions(state: State) -> Any:
    """A stored model asked about stored records and about rows."""
    row = {"flights__604800__": 12, "mean_delay": 30.5, "last_delay": None}
    asked = {"entity_ids": ["SWR", "DLH", "XXX"]}
    return ask(
        "tabular",
        state.keys["all"],
        ("GET", "/predict", None),
        ("POST", "/predict/delays", asked | {"feature_set": "carrier"}),
        ("POST", "/predict/delays@1", asked | {"feature_set": "carrier"}),
        ("POST", "/predict/delays@production", {"rows": [row]}),
    )


def reuse(_state: State) -> Any:
    """The recipe that made the model finds it instead of training again."""
    result = train_tabular(load_config(TabularRecipe, recipe=Path("delays.yaml")).config)
    return [result.version.ref, result.reused, result.promoted]


def keys(state: State) -> Any:
    """Keys that may pass, one that is revoked, one whose quota is used up."""
    call = ("GET", "/features/carrier?entity_id=SWR&features=name", None)
    found = {
        name: [status for status, _ in ask("features", secret, call)]
        for name, secret in sorted(state.keys.items())
    }
    return {"listed": command("keys", "list"), "statuses": found}


def monitoring(state: State) -> Any:
    """Drift, quality, performance, alerts and counted requests."""
    paths = ("drift", "quality", "performance", "alerts")
    calls = [("GET", f"/monitoring/{path}", None) for path in paths]
    *found, (status, text) = ask("gateway", state.keys["all"], *calls, ("GET", "/metrics", None))
    counted = [
        line
        for line in text.splitlines()
        if ("_seconds_count" in line or line.startswith("sunloom_feature_served"))
        and "monitoring" not in line
    ]
    # Where the answers take seconds, the requests of this reading are counted before its end.
    performance = found[2][1]
    performance["serving"] = [
        one for one in performance["serving"] if one["route"] != "/monitoring"
    ]
    checks = found[1][1]["checks"]
    for one in checks:
        one["report"] = Path(one["report"]).name if one["report"] else None
    return [*found, status, counted]


def monitor(state: State) -> Any:
    """The next window, judged by the histograms and streaks that are kept; the alert counts up."""
    found = command("features", "monitor", "watch.yaml", "--as-of", "2026-11-21")
    for timing in ("counting_seconds", "judging_seconds", "seconds"):
        found["answer"].pop(timing, None)
    alerts = ask("gateway", state.keys["all"], ("GET", "/monitoring/alerts", None))[0][1]["alerts"]
    names = ("name", "severity", "labels", "value", "status", "count", "first_at")
    return [found, [{name: one[name] for name in names} for one in alerts]]


def served(_state: State) -> Any:
    """Answers that were kept, computed anew."""
    return command("features", "skew", "carrier.yaml", "--served")


def agents(state: State) -> Any:
    """Agents, tasks and an event log over HTTP; asking for an unfinished task would start Ray."""
    base, task = f"/agents/{state.agent}", state.tasks["finished"]
    paths = ("/agents", f"{base}/status", f"{base}/tasks/{task}", f"{base}/tasks/{task}/events")
    return ask("agents", state.keys["all"], *[("GET", path, None) for path in paths])


def resumed(state: State) -> Any:
    """A task whose process died goes on: its finished calls are answered from the journal."""
    store = AgentStore(open_database(settings()))
    queued = store.requeue_unfinished(state.agent, 3)
    first, second = store.claim(state.agent), store.claim(state.agent)
    assert first is not None
    assert second is not None

    async def again() -> list[Any]:
        journal = Journal(store, state.tasks["running"])

        async def make(_key: str) -> dict[str, Any]:
            return {"made": "anew"}

        known = await journal.call_once("model", MODEL_CALL, make)
        fresh = await journal.call_once("tool", TOOL_CALL, make)
        return [{"data": call.data, "replayed": call.replayed} for call in (known, fresh)]

    events = [[one.seq, one.type] for one in store.events(state.tasks["running"])]
    return [queued, first.id, second.id, first.attempts, asyncio.run(again()), events]


def backfills(_state: State) -> Any:
    """One that was finished computes nothing; one that was ended computes what is missing."""
    found = {}
    for name, end in (("finished", "2026-11-18"), ("ended", "2026-11-20")):
        given = ("--start", "2026-11-16T00:00:00Z", "--end", f"{end}T00:00:00Z")
        done = command("features", "backfill", "--recipe", "backfill.yaml", *given, "--every", "1d")
        folder = Path(done["answer"].pop("folder"))
        manifest = json.loads((folder / "manifest.json").read_text())
        rows = [rows_of(folder / one["file"]) for one in manifest["files"]]
        found[name] = [done, manifest["plan"], manifest["files"], rows]
    return found


def runs(state: State) -> Any:
    """A job's record, its resolved configuration and its progress; a sealed checkpoint."""
    folder = Path("made/runs") / state.run
    record = json.loads((folder / "run.json").read_text())
    resolved = yaml.safe_load((folder / "config.resolved.yaml").read_text())
    checkpoint = check(Path("made/checkpoints/checkpoint_3"))
    return {
        "record": record,
        "resolved": json.loads(json.dumps(resolved, default=str)),
        "progress": [json.loads(step.to_json()) for step in read_progress(folder)],
        "checkpoint": [checkpoint.step, checkpoint.world_size],
    }


def plans(_state: State) -> Any:
    """Fingerprints that stored results are known by."""
    return {name: plan_of("flights.py", name).fingerprint for name in ("airport", "carrier")}


# In this order on one copy: answers that are served are counted some seconds later, so what shows
# the counts comes first, and what changes the folder comes last.
READINGS: Sequence[Reading] = (
    monitoring, served, online, stream, offline, prepared, predictions, keys, agents, runs, plans,
    models, reuse, monitor, materialise, ingest, resumed, backfills,
)  # fmt: skip


def read_all(data: Path, target: Path) -> Iterator[tuple[str, Any]]:
    """Each reading of a copy of the folder, without the place where the copy lies."""
    shutil.copytree(data / "home", target)
    settle_at(target)
    state = State(target, **json.loads((data / "known.json").read_text()))
    for reading in READINGS:
        with at_home(target):
            text = json.dumps(reading(state), default=str)
        plain = text.replace(str(target), "HOME").replace(BUILT_AT, "HOME")
        yield reading.__name__, json.loads(plain)
