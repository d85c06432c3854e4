"""Streamed answers through the gateway against bare vLLM: tokens a second and first token.

    python -m benchmarks.serving.llm_http [--rounds 3] [--requests 3]

32 clients of 8 tenants stream answers of 64 tokens from the small base, with a key each, from the
gateway, and the same from vLLM's own OpenAI server with the same engine settings, without keys,
limits or HAProxy. Both run all the time and are asked by turns. The clients are a few lines on
bare sockets, so that they cost both the same little. CPU seconds are those of the servers'
processes: on a machine with other work they say more than the clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from sunloom.config import Settings, load_config
from sunloom.core.cluster import disconnect
from sunloom.core.model_registry import open_registry
from sunloom.core.processes import free_port, own_processes
from sunloom.llm.base_models import register_packaged
from sunloom.llm.engines import engine_environment
from sunloom.serving.auth.api_keys import Allowance, create_key
from sunloom.serving.deploy.deploy import deploy, shutdown
from sunloom.serving.deploy.environment import instance_folder
from sunloom.serving.deploy.haproxy import INSTANCE

RESULT = Path(__file__).parents[1] / "results" / "llm_http.json"
TENANTS, CLIENTS, TOKENS, LENGTH = 8, 32, 64, 512
MODEL = "tool-base"


@dataclass(frozen=True)
class Round:
    """One server's figures of one round.

    Attributes:
        tokens_per_second: Over all clients.
        first_token_s: Median time to the first event.
        cpu_s: Of the server's processes.
    """

    tokens_per_second: float
    first_token_s: float
    cpu_s: float


def settings_in(folder: Path) -> Settings:
    """Only the language app and the gateway, on a free port."""
    sets = [f"paths.state={folder / 'state'}", f"paths.outputs={folder / 'outputs'}"]
    sets += [f"serving.{app}.enabled=false" for app in ("features", "tabular", "agents")]
    sets += ["serving.port=0", "serving.llm.dtype=float32", "serving.ready_timeout_s=600"]
    return load_config(Settings, sets=[*sets, f"serving.llm.max_model_len={LENGTH}"]).config


@contextmanager
def bare_server(settings: Settings, folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """vLLM's OpenAI server with the gateway's engine settings; its URL and process."""
    config, port = settings.serving.llm, free_port()
    structured = {"backend": "xgrammar", "disable_any_whitespace": True}
    words = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder),
        "--served-model-name", MODEL, "--dtype", "float32", "--max-model-len", str(LENGTH),
        "--max-num-seqs", str(config.max_num_seqs), "--enforce-eager", "--enable-lora",
        "--max-lora-rank", str(config.max_lora_rank), "--max-loras", str(config.max_loras),
        "--structured-outputs-config", json.dumps(structured), "--enable-auto-tool-choice",
        "--tool-call-parser", config.tool_parser, "--host", "127.0.0.1", "--port", str(port),
        "--disable-uvicorn-access-log", "--disable-log-stats",
    ]  # fmt: skip
    log = folder.parent / "bare.log"
    with log.open("wb") as out:
        environment = os.environ | engine_environment(config)
        process = subprocess.Popen(words, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 600
        while True:
            with suppress(httpx.TransportError):
                if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"bare vLLM did not start: {log.read_text()[-2000:]}")
            time.sleep(0.5)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def processes_of(settings: Settings) -> list[psutil.Process]:
    """The gateway's processes that a streamed answer passes: replica, engine and HAProxy."""
    folder, found = str(instance_folder(settings)), []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            title = " ".join(process.cmdline())
            is_engine = "ServeReplica:llm" in title or "VLLM::" in title
            if (is_engine and process.environ().get(INSTANCE) == folder) or f"{folder}/" in title:
                found.append(process)
    return found


def cpu_of(processes: Sequence[psutil.Process]) -> float:
    """CPU seconds of processes so far."""
    times = [process.cpu_times() for process in processes]
    return sum(time.user + time.system for time in times)


async def stream(url: str, key: str, number: int, first: list[float]) -> int:
    """One streamed completion; its events, and the time to the first one."""
    body = json.dumps(
        {
            "model": MODEL, "prompt": f"Question {number}: which customer has the id {number}?",
            "max_tokens": TOKENS, "temperature": 0, "stream": True, "ignore_eos": True,
        }
    ).encode()  # fmt: skip
    host, _, port = url.removeprefix("http://").partition(":")
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    begin = time.perf_counter()
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.encode() + body)
    received = b""
    while b"data: " not in received:
        part = await reader.read(65536)
        if not part:
            raise RuntimeError(f"{url}: {received[:500]!r}")
        received += part
    first.append(time.perf_counter() - begin)
    received += await reader.read(-1)
    writer.close()
    if b"[DONE]" not in received:
        raise RuntimeError(f"{url}: the stream ended early: {received[-300:]!r}")
    return received.count(b"data: ") - 1


async def ask(url: str, keys: Sequence[str], requests: int) -> tuple[float, list[float]]:
    """Every client's requests, one after another; seconds in all, and to each first event."""
    first: list[float] = []

    async def client(number: int) -> None:
        for turn in range(requests):
            key = keys[number % len(keys)]
            await stream(url, key, number * requests + turn, first)

    begin = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return time.perf_counter() - begin, first


def measure(
    url: str, keys: Sequence[str], requests: int, processes: Sequence[psutil.Process]
) -> Round:
    """One round at one server."""
    before = cpu_of(processes)
    seconds, first = asyncio.run(ask(url, keys, requests))
    tokens = CLIENTS * requests * TOKENS
    return Round(tokens / seconds, statistics.median(first), cpu_of(processes) - before)


def main() -> None:
    """Measure by turns and write figures and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=3)
    options = parser.parse_args()
    # By default Ray's workers have the lowest priority but one, and wait for all other work here.
    os.environ.setdefault("RAY_worker_niceness", "0")
    rounds: dict[str, list[Round]] = {"bare": [], "gateway": []}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = settings_in(folder)
        registry = open_registry(settings)
        base = registry.path(register_packaged(MODEL, registry).version)
        keys = [
            create_key(settings, ["llm"], f"tenant{n % TENANTS}", allowance=Allowance(1_000_000))[0]
            for n in range(CLIENTS)
        ]
        stack.enter_context(own_processes())
        stack.callback(disconnect)
        stack.callback(shutdown, settings)
        gateway = deploy(settings).url
        bare, process = stack.enter_context(bare_server(settings, base))
        ways = {
            "bare": (bare, [process, *process.children(recursive=True)]),
            "gateway": (gateway, processes_of(settings)),
        }
        for url, processes in ways.values():
            measure(url, keys, 1, processes)
        for _ in range(options.rounds):
            for way, (url, processes) in ways.items():
                rounds[way].append(measure(url, keys, options.requests, processes))
                print(way, rounds[way][-1], flush=True)
    rate = {
        way: statistics.median(r.tokens_per_second for r in found) for way, found in rounds.items()
    }
    first = {
        way: statistics.median(r.first_token_s for r in found) for way, found in rounds.items()
    }
    cpu = {way: statistics.median(r.cpu_s for r in found) for way, found in rounds.items()}
    result = {
        "tokens_per_second": {way: round(value, 1) for way, value in rate.items()},
        "first_token_s": {way: round(value, 4) for way, value in first.items()},
        "cpu_s_a_round": {way: round(value, 2) for way, value in cpu.items()},
        "gateway_over_bare": {
            "tokens_per_second": round(rate["gateway"] / rate["bare"], 3),
            "first_token": round(first["gateway"] / first["bare"], 3),
            "cpu": round(cpu["gateway"] / cpu["bare"], 3),
        },
        "clients": CLIENTS,
        "tenants": TENANTS,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
