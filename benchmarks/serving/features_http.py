"""Feature reads over HTTP through the gateway, with a key, against the floor and Feast's server.

    python -m benchmarks.serving.features_http [--feast-python VENV/bin/python] [--seconds 5]

Ten features, 10,000 entities, 1 and 100 entities a request, from ``wrk`` on the same machine
(``apt-get install wrk``). The floor is LMDB with the same records behind bare uvicorn: no key, no
guard, no HAProxy. Servers are measured in turn, round by round, and the best round counts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl

from sunloom.config import Settings, load_config
from sunloom.core.cluster import disconnect
from sunloom.core.processes import free_port, own_processes
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.serving.auth.api_keys import Allowance, create_key
from sunloom.serving.deploy.deploy import deploy, shutdown

HERE = Path(__file__).parent
ENTITIES, FEATURES, CONNECTIONS = 10_000, 10, 16


def settings_in(folder: Path) -> Settings:
    """Only the features app and the gateway, on a free port."""
    sets = [f"paths.state={folder / 'state'}", f"paths.outputs={folder / 'outputs'}"]
    sets += [f"serving.{app}.enabled=false" for app in ("llm", "tabular", "agents")]
    return load_config(Settings, sets=[*sets, "serving.port=0"]).config


def fill(settings: Settings) -> None:
    """Write the records that every server of ours reads."""
    rng = np.random.default_rng(0)
    columns = {f"f{i}": rng.normal(size=ENTITIES) for i in range(FEATURES)}
    when = pl.Series([datetime(2026, 11, 1, tzinfo=UTC)] * ENTITIES)
    table = pl.DataFrame({"id": np.arange(ENTITIES), "event_time": when, **columns})
    open_online_store(settings).write("bench", table)


def load(url: str, kind: str, entities: int, key: str, seconds: int) -> dict[str, float]:
    """One run of ``wrk``: requests a second, latencies in milliseconds, errors."""
    words = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(HERE / "read.lua"), url]
    done = subprocess.run(
        [*words, "--", kind, str(entities), key], capture_output=True, text=True, check=True
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    if measured["errors"]:
        raise RuntimeError(f"{url} {kind}: {measured['errors']} requests failed")
    return measured


@contextmanager
def server(words: list[str], url: str, cwd: Path | None = None) -> Iterator[str]:
    """A server as its own process, ended by pid."""
    process = subprocess.Popen(words, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        try:
            httpx.get(f"{url}/features/bench?entity_id=1")
        except httpx.TransportError:
            time.sleep(0.3)
        else:
            return
    raise RuntimeError(f"{url} does not answer")


@contextmanager
def gateway(settings: Settings) -> Iterator[tuple[str, str]]:
    """The gateway's URL and a key."""
    key, _ = create_key(settings, ["features"], allowance=Allowance(100_000_000))
    try:
        yield deploy(settings).url, key
    finally:
        shutdown(settings)
        disconnect()


@contextmanager
def feast(python: str, folder: Path) -> Iterator[str]:
    """Feast's own server on SQLite with the same number of entities and features."""
    repo = folder / "feast"
    subprocess.run([python, str(HERE / "feast_repo.py"), str(repo)], check=True)
    port = free_port("127.0.0.1")
    words = [str(Path(python).parent / "feast"), "serve", "-h", "127.0.0.1", "-p", str(port)]
    # Its default ends a worker after 1,000 requests.
    lasting = ["--no-access-log", "--max-requests", "0", "-r", "600"]
    with server([*words, *lasting], f"http://127.0.0.1:{port}", cwd=repo) as url:
        yield url


def main() -> None:
    """Measure and print JSON; with ``--write`` also into ``benchmarks/results``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--feast-python", help="python of a virtual environment with feast")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: apt-get install wrk")
    with own_processes(), tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        result = _measure(options, Path(folder), stack)
    print(json.dumps(result, indent=2))
    if options.write:
        path = HERE.parent / "results" / "features_http.json"
        path.write_text(json.dumps(result, indent=2) + "\n")


def _measure(options: argparse.Namespace, folder: Path, stack: ExitStack) -> dict[str, Any]:
    settings = settings_in(folder)
    fill(settings)
    port = free_port("127.0.0.1")
    online = str(settings.paths.state / "online")
    bare = [sys.executable, "-m", "benchmarks.serving.floor", online, str(port)]
    floor = stack.enter_context(server(bare, f"http://127.0.0.1:{port}"))
    url, key = stack.enter_context(gateway(settings))
    runs: dict[str, Callable[[int], dict[str, float]]] = {
        "floor": lambda n: load(floor, _kind(n), n, "", options.seconds),
        "gateway": lambda n: load(url, _kind(n), n, key, options.seconds),
    }
    if options.feast_python:
        peer = stack.enter_context(feast(options.feast_python, folder))
        runs["feast"] = lambda n: load(peer, "feast", n, "", options.seconds)
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "connections": CONNECTIONS,
        "one_entity": _in_turn(runs, 1, options.rounds),
        "hundred_entities": _in_turn(runs, 100, options.rounds),
    }


def _kind(entities: int) -> str:
    return "get" if entities == 1 else "batch"


def _in_turn(
    runs: dict[str, Callable[[int], dict[str, float]]], entities: int, rounds: int
) -> dict[str, Any]:
    best: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for name, run in runs.items():
            found = run(entities)
            if name not in best or found["rps"] > best[name]["rps"]:
                best[name] = found
    ours = best["gateway"]["rps"]
    ratios = {f"gateway_to_{n}": round(ours / m["rps"], 2) for n, m in best.items() if m["rps"]}
    return best | {"ratios": {n: r for n, r in ratios.items() if n != "gateway_to_gateway"}}


if __name__ == "__main__":
    main()
