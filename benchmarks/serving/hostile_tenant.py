"""A tenant that does what it can to the others, beside one that reads and asks for single tokens.

    python -m benchmarks.serving.hostile_tenant [--seconds 600] [--quiet 30] [--json]

Deploys the gateway, the features app, the tabular app and the shipped language model on this
machine, loopback only, measures the honest tenant alone and then under attack, and prints both
with their bars: p99 below three times the quiet one, no failed request, less than 200 MB of growth.
Exits with 1 where one is missed. The attackers share the machine's cores with what they attack;
they run with a lower priority.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import psutil

from sunloom.config import Settings, load_config
from sunloom.core.cluster import disconnect
from sunloom.core.model_registry import open_registry
from sunloom.core.processes import own_processes
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.serving.auth.api_keys import Allowance, create_key
from sunloom.serving.deploy.deploy import deploy, shutdown
from sunloom_retail.base_model import FOLDER

BARS = {"ratio": 3.0, "failed": 0, "growth_mb": 200.0}
_CHAT, _COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_MODEL = "tool-base"
_MESSAGES = [{"role": "user", "content": "Hello"}]
# Of each attack at once.
_ATTACKERS = 4


@dataclass(frozen=True)
class Latencies:
    """What the honest tenant met with one kind of request; milliseconds."""

    requests: int
    failed: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


# --- the deployment


def settings_in(folder: Path, sets: list[str]) -> Settings:
    """Everything but the agents, whose processes the machine would notice more than the attack."""
    own = [f"paths.state={folder / 'state'}", f"paths.outputs={folder / 'outputs'}"]
    own += ["serving.port=0", "serving.agents.enabled=false", "serving.llm.dtype=float32"]
    return load_config(Settings, sets=[*own, *sets]).config


def fill(settings: Settings) -> None:
    """Register the language model and write the features."""
    registry = open_registry(settings)
    registry.promote(_MODEL, registry.register(_MODEL, "llm", FOLDER).version)
    rng, count = np.random.default_rng(0), 1000
    columns = {f"f{index}": rng.normal(size=count) for index in range(10)}
    when = pl.Series([datetime(2026, 11, 1, tzinfo=UTC)] * count)
    table = pl.DataFrame({"id": np.arange(count), "event_time": when, **columns})
    open_online_store(settings).write("customer", table)


@contextmanager
def deployment(settings: Settings) -> Iterator[str]:
    """The gateway's URL, while it runs."""
    fill(settings)
    try:
        yield deploy(settings).url
    finally:
        shutdown(settings)
        disconnect()


def memory_mb() -> Counter[str]:
    """Proportional memory of the processes that this one has started, by what they are."""
    memory: Counter[str] = Counter()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            # Ray writes what a worker does over its command; what follows a space are arguments.
            title = " ".join(process.cmdline()).split(" ")[0].rsplit("/", 1)[-1]
            memory[title] += process.memory_full_info().pss / 1e6
    return memory


# --- the honest tenant


async def measure(url: str, key: str, seconds: float) -> Mapping[str, Latencies]:
    """Feature reads and answers of one token, each in a loop with short pauses."""
    headers = {"Authorization": f"Bearer {key}"}
    body = {"model": _MODEL, "prompt": "Hello", "max_tokens": 1}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
        reads, answers = await asyncio.gather(
            _repeat(lambda: client.get("/features/customer?entity_id=7"), 0.05, seconds),
            _repeat(lambda: client.post(_COMPLETIONS, json=body), 0.1, seconds),
        )
    return {"feature_read": reads, "one_token": answers}


async def _repeat(
    request: Callable[[], Awaitable[httpx.Response]], pause_s: float, seconds: float
) -> Latencies:
    times, failed, end = [], 0, time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        try:
            failed += (await request()).status_code != 200
        except httpx.HTTPError:
            failed += 1
        times.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(pause_s)
    p50, p95, p99 = np.percentile(times, [50, 95, 99])
    return Latencies(len(times), failed, float(p50), float(p95), float(p99), max(times))


# --- the hostile tenant


class Attacks:
    """One attack a method; each returns after one try, with the status that it met."""

    def __init__(self, client: httpx.AsyncClient, address: tuple[str, int]) -> None:
        self._client = client
        self._address = address

    async def foreign_code(self) -> int:
        """Another's repository as the model of a training."""
        model = {"base_model": "owner/repository", "trust_remote_code": True}
        return await self._post("/llm/train", {"recipe": "x", "overrides": {"model": model}})

    async def escaping_name(self) -> int:
        output = {"name": "../../escaped"}
        return await self._post("/llm/train", {"recipe": "x", "overrides": {"output": output}})

    async def wide_rows(self) -> int:
        return await self._post("/predict/any", {"rows": [{f"k{i}": 0} for i in range(8000)]})

    async def deep_body(self) -> int:
        return await self._send("/predict/any", b'{"rows":' + b"[" * 700 + b"]" * 700 + b"}")

    async def many_answers(self) -> int:
        return await self._post(_CHAT, self._chat(n=600, max_tokens=900))

    async def many_prompts(self) -> int:
        body = {"model": _MODEL, "prompt": ["a"] * 300, "max_tokens": 900}
        return await self._post(_COMPLETIONS, body)

    async def allowed_answers(self) -> int:
        """As many answers at once as one request may have, as long as they may be."""
        body = {"model": _MODEL, "prompt": "a b c", "max_tokens": 800, "ignore_eos": True}
        for count in (16, 8, 4, 2):
            status = await self._post(_COMPLETIONS, body | {"n": count})
            if status != 400:
                return status
        return 400

    async def long_prompt(self) -> int:
        words = " ".join(str(random.randrange(1000)) for _ in range(250))
        return await self._post(_COMPLETIONS, {"model": _MODEL, "prompt": words, "max_tokens": 1})

    async def too_long_prompt(self) -> int:
        body = {"model": _MODEL, "prompt": "x " * 30_000, "max_tokens": 1}
        return await self._post(_COMPLETIONS, body)

    async def long_stream(self) -> int:
        body = {"model": _MODEL, "prompt": "a", "max_tokens": 900, "ignore_eos": True}
        return await self._stream(body, events=10_000)

    async def left_stream(self) -> int:
        body = {"model": _MODEL, "prompt": "a", "max_tokens": 900, "ignore_eos": True}
        return await self._stream(body, events=5)

    async def hang_up(self) -> int:
        body = {"model": _MODEL, "prompt": "a", "max_tokens": 900, "ignore_eos": True}
        with suppress(httpx.TimeoutException):
            await self._client.post(_COMPLETIONS, json=body, timeout=0.2)
        return 0

    async def string_for_boolean(self) -> int:
        return await self._post(_CHAT, self._chat(stream="false"))

    async def deep_schema(self) -> int:
        return await self._post(_CHAT, self._chat(response_format=_schema(120, 1)))

    async def large_schema(self) -> int:
        """A new one each time, as large as is allowed."""
        form = _schema(12, 15)
        return await self._post(_CHAT, self._chat(response_format=form, max_tokens=2))

    async def optional_properties(self) -> int:
        form = _schema(1, 240)
        return await self._post(_CHAT, self._chat(response_format=form, max_tokens=2))

    async def many_tools(self) -> int:
        tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
        return await self._post(_CHAT, self._chat(tools=[tool] * 120))

    async def others_jobs(self) -> int:
        return (await self._client.get("/llm/training")).status_code

    async def other_method(self) -> int:
        return (await self._client.delete(f"/v1/models/{_MODEL}")).status_code

    async def others_log(self) -> int:
        return (await self._client.get("/llm/training/someones_job/logs")).status_code

    async def half_heads(self) -> int:
        """Connections that never end their head."""
        writers = []
        with suppress(OSError):
            for _ in range(50):
                _, writer = await asyncio.open_connection(*self._address)
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-")
                writers.append(writer)
            await asyncio.sleep(5)
        for writer in writers:
            writer.close()
        return 0

    async def huge_body(self) -> int:
        """200 MB, in pieces and without a length."""

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(200):
                yield b" " * (1 << 20)

        return await self._send("/predict/any", pieces())

    async def large_body(self) -> int:
        """Just below the limit, and full of small lists."""
        return await self._send(_CHAT, b'{"model":"tool-base","x":[' + b"[]," * 9000 + b"[]]}")

    async def future_row(self) -> int:
        row = {"id": 7, "event_time": "9999-01-01T00:00:00Z", "f0": 1e9}
        return await self._post("/features/ingest", {"feature_set": "customer", "rows": [row]})

    async def odd_headers(self) -> int:
        headers = {b"X-Request-ID": b"\xff", b"x-request-timeout-seconds": b"\xff"}
        return (await self._client.get("/features", headers=headers)).status_code

    async def odd_numbers(self) -> int:
        for path in (
            "/features/customer?entity_id=1&now=9999-12-31T23:59:59.999999-23:59",
            f"/models/x@{'9' * 30}",
            "/features/customer?entity_id=" + "9" * 100,
        ):
            status = (await self._client.get(path)).status_code
        return status

    async def unknown_keys(self) -> int:
        headers = {"Authorization": f"Bearer sl-{random.randbytes(16).hex()}"}
        return (await self._client.get("/features", headers=headers)).status_code

    async def reads_in_a_burst(self) -> int:
        reads = (self._client.get("/features/customer?entity_id=3") for _ in range(20))
        return max(answer.status_code for answer in await asyncio.gather(*reads))

    def _chat(self, **fields: Any) -> dict[str, Any]:
        return {"model": _MODEL, "messages": _MESSAGES, **fields}

    async def _post(self, path: str, body: Any) -> int:
        return (await self._client.post(path, json=body)).status_code

    async def _send(self, path: str, content: Any) -> int:
        headers = {"content-type": "application/json"}
        return (await self._client.post(path, content=content, headers=headers)).status_code

    async def _stream(self, body: Mapping[str, Any], events: int) -> int:
        request = self._client.stream("POST", _COMPLETIONS, json={**body, "stream": True})
        async with request as response:
            async for _ in response.aiter_lines():
                events -= 1
                if not events:
                    break
        return response.status_code


def _schema(levels: int, properties: int) -> dict[str, Any]:
    name = random.randbytes(4).hex()
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        others: dict[str, Any] = {f"{name}{index}": {} for index in range(properties - 1)}
        schema = {"type": "object", "properties": {"a": schema, **others}}
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}


ATTACKS = tuple(sorted(name for name in vars(Attacks) if not name.startswith("_")))


def run_attacks(url: str, key: str, seconds: float, only: tuple[str, ...], results: Any) -> None:
    """The hostile tenant's process: every attack in a loop; puts counts of statuses."""
    # Ray runs its workers with 15: who attacks from elsewhere takes no core from them.
    os.nice(19)
    results.put(asyncio.run(_attack(url, key, seconds, only)))


async def _attack(
    url: str, key: str, seconds: float, only: tuple[str, ...]
) -> dict[str, dict[str, int]]:
    statuses: dict[str, Counter[str]] = {name: Counter() for name in only}
    limits = httpx.Limits(max_connections=400)
    parsed = httpx.URL(url)
    headers = {"Authorization": f"Bearer {key}"}
    end = time.monotonic() + seconds

    async def loop(attack: Callable[[], Awaitable[int]], counts: Counter[str]) -> None:
        while time.monotonic() < end:
            try:
                status = await asyncio.wait_for(attack(), max(0.1, end - time.monotonic()))
                counts[str(status)] += 1
                # Who is refused at once does not become a loop of its own client.
                await asyncio.sleep(0.05)
            except (httpx.HTTPError, OSError, TimeoutError) as error:
                counts[type(error).__name__] += 1
                await asyncio.sleep(0.2)

    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=60, limits=limits
    ) as client:
        attacks = Attacks(client, (parsed.host, int(parsed.port or 80)))
        await asyncio.gather(
            *(
                loop(getattr(attacks, name), statuses[name])
                for name in only
                for _ in range(_ATTACKERS)
            )
        )
    return {name: dict(counts) for name, counts in statuses.items()}


# --- the comparison


def compare(url: str, honest: str, hostile: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the honest tenant, by its key, alone and beside the hostile one."""
    asyncio.run(measure(url, honest, 3))
    quiet = asyncio.run(measure(url, honest, options.quiet))
    before_mb = memory_mb()
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    only = tuple(options.attack or ATTACKS)
    arguments = (url, hostile, options.seconds + 5, only, results)
    attacker = context.Process(target=run_attacks, args=arguments, daemon=True)
    attacker.start()
    # Its imports.
    time.sleep(5)
    attacked = asyncio.run(measure(url, honest, options.seconds))
    statuses = results.get(timeout=90)
    attacker.join(30)
    time.sleep(options.rest)
    return {
        "seconds": options.seconds,
        "quiet": {name: asdict(latencies) for name, latencies in quiet.items()},
        "attacked": {name: asdict(latencies) for name, latencies in attacked.items()},
        "ratios": {name: attacked[name].p99_ms / quiet[name].p99_ms for name in quiet},
        "failed": sum(latencies.failed for latencies in attacked.values()),
        "memory_mb": compare_memory(before_mb, memory_mb()),
        "attacks": statuses,
    }


def compare_memory(before: Counter[str], after: Counter[str]) -> dict[str, Any]:
    """Megabytes before, and by how many they have grown, in all and by process."""
    growth = {title: round(after[title] - before[title], 1) for title in before | after}
    by_process = sorted(growth.items(), key=lambda item: -item[1])
    total = before.total()
    return {"before": total, "growth": after.total() - total, "by_process": dict(by_process)}


def missed_bars(result: Mapping[str, Any]) -> list[str]:
    """A line for each bar that was missed."""
    missed = [
        f"{name}: p99 is {ratio:.1f} times the quiet one; the bar is {BARS['ratio']:g}"
        for name, ratio in result["ratios"].items()
        if ratio >= BARS["ratio"]
    ]
    if result["failed"] > BARS["failed"]:
        missed.append(f"{result['failed']} requests of the honest tenant failed")
    if (growth := result["memory_mb"]["growth"]) >= BARS["growth_mb"]:
        missed.append(f"memory grew by {growth:.0f} MB; the bar is {BARS['growth_mb']:g}")
    for name, counts in result["attacks"].items():
        if any(status.startswith("5") for status in counts):
            missed.append(f"{name} was answered {counts}")
    return missed


def print_table(result: Mapping[str, Any]) -> None:
    """Both measurements side by side, and what the attacks were answered."""
    print(f"{'':14}{'requests':>9}{'failed':>8}{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}  ms")
    for when in ("quiet", "attacked"):
        for name, row in result[when].items():
            figures = "".join(
                f"{row[key]:8.1f}" for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms")
            )
            print(f"{name:14}{row['requests']:9}{row['failed']:8}{figures}  {when}")
    ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in result["ratios"].items())
    memory = result["memory_mb"]
    print(f"p99 to quiet p99: {ratios}")
    print(f"memory: {memory['before']:.0f} MB, grown by {memory['growth']:.0f} MB")
    print("  " + ", ".join(f"{title} {mb:+.0f}" for title, mb in memory["by_process"].items()))
    for name, counts in result["attacks"].items():
        print(f"  {name:20} {counts}")


def main() -> None:
    """Deploy, measure, print; exit with 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="under attack")
    parser.add_argument("--quiet", type=float, default=30, help="seconds before it")
    parser.add_argument("--rest", type=float, default=10, help="seconds until memory is read again")
    parser.add_argument("--attack", action="append", choices=ATTACKS, help="only these")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with own_processes(), tempfile.TemporaryDirectory() as folder:
        settings = settings_in(Path(folder), options.set)
        allowance = Allowance(100_000)
        honest, _ = create_key(settings, ["features", "llm"], "honest", allowance=allowance)
        scopes = ["features", "ingest", "llm", "models", "train"]
        hostile, _ = create_key(settings, scopes, "hostile", allowance=allowance)
        with deployment(settings) as url:
            result = compare(url, honest, hostile, options)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print_table(result)
    if missed := missed_bars(result):
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main()
