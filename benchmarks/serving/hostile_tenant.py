"""A tenant that does what it can to the others, beside one that reads and asks for single tokens.

    python -m benchmarks.serving.hostile_tenant [--seconds 600] [--quiet 30] [--agents] [--json]

Deploys the gateway, the features app, the tabular app and the shipped language model on this
machine, loopback only, measures the honest tenant alone and then under attack, and prints both
with their bars: p99 below three times the quiet one, no failed request, less than 200 MB of growth.
Exits with 1 where one is missed. The attackers share the machine's cores with what they attack;
they run with a lower priority. With ``--agents`` the hostile tenant has an agent, too, which works
all the time: a process that calls the model in turn with everybody else.
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
import zlib
from base64 import b64encode
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
from sunloom.preprocessing.artifact import register, save
from sunloom.preprocessing.fit import fit
from sunloom.serving.auth.api_keys import Allowance, create_key
from sunloom.serving.deploy.deploy import deploy, shutdown
from sunloom_retail.base_model import FOLDER

BARS = {"ratio": 3.0, "failed": 0, "growth_mb": 200.0}
_CHAT, _COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_MODEL, _PICTURES = "tool-base", "pictures"
_MESSAGES = [{"role": "user", "content": "Hello"}]
# Of each attack at once.
_ATTACKERS = 4
_EVENT_STREAMS = 25
_AGENT = {
    "name": "hostile",
    "engine": "crewai",
    "model": _MODEL,
    "role": "Attacker",
    "goal": "Work",
    "backstory": "You answer at length.",
}


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


def settings_in(folder: Path, sets: list[str], *, agents: bool = False) -> Settings:
    """Everything but the agents, of which there is one process a tenant where there are any."""
    own = [f"paths.state={folder / 'state'}", f"paths.outputs={folder / 'outputs'}"]
    own += ["serving.port=0", "serving.llm.dtype=float32"]
    own += [f"serving.agents.enabled={str(agents).lower()}", "serving.agents.most_working=1"]
    return load_config(Settings, sets=[*own, *sets]).config


def fill(settings: Settings) -> None:
    """Register the language model and a step for pictures, and write the features."""
    registry = open_registry(settings)
    registry.promote(_MODEL, registry.register(_MODEL, "llm", FOLDER).version)
    rng, count = np.random.default_rng(0), 1000
    columns = {f"f{index}": rng.normal(size=count) for index in range(10)}
    when = pl.Series([datetime(2026, 11, 1, tzinfo=UTC)] * count)
    table = pl.DataFrame({"id": np.arange(count), "event_time": when, **columns})
    open_online_store(settings).write("customer", table)
    pictures = fit(
        [{"type": "image_statistics", "columns": ["i"]}], pl.DataFrame({"i": [white_png(8)]})
    )
    folder = settings.paths.outputs / "pictures"
    save(pictures, folder)
    register(registry, pictures, folder, _PICTURES, "production")


def white_png(side: int) -> bytes:
    """A PNG of one bit a pixel: four kilobytes have the pixels of half a gigabyte."""
    parts = {
        b"IHDR": side.to_bytes(4, "big") * 2 + b"\x01\x00\x00\x00\x00",
        b"IDAT": zlib.compress((b"\0" + b"\xff" * (side // 8)) * side, 9),
        b"IEND": b"",
    }
    chunks = (
        len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")
        for name, data in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


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

    def __init__(self, client: httpx.AsyncClient, address: tuple[str, int], agent: str) -> None:
        self._client = client
        self._address = address
        self._agent = f"/agents/{agent}"
        self._bombs = [b64encode(white_png(side)).decode() for side in (32_768, 2_048)]

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

    async def png_bomb(self) -> int:
        """Kilobytes that are gigabytes of pixels, in one image and in many."""
        for bombs in (self._bombs[:1], self._bombs[1:] * 100):
            body = {"artifact": _PICTURES, "rows": [{"i": bomb} for bomb in bombs]}
            status = await self._post("/features/transform", body)
        return status

    async def agents_without_end(self) -> int:
        return await self._post("/agents/create", _AGENT | {"name": random.randbytes(8).hex()})

    async def agent_tasks(self) -> int:
        return await self._post(f"{self._agent}/task", {"task": "Tell me of everything."})

    async def agent_blank_tasks(self) -> int:
        return await self._post(f"{self._agent}/task", {"task": " \n"})

    async def agent_event_streams(self) -> int:
        """A hundred at once, each open for seconds."""
        answer = await self._client.post(f"{self._agent}/task", json={"task": "Go on."})
        if answer.status_code != 202:
            return answer.status_code
        path = f"{self._agent}/tasks/{answer.json()['task_id']}/events"

        async def follow() -> int:
            async with client.stream("GET", path) as response:
                with suppress(TimeoutError):
                    async with asyncio.timeout(5):
                        async for _ in response.aiter_lines():
                            pass
            return response.status_code

        # httpx looks through all connections of a client for each request: not the others' one.
        base_url, headers = self._client.base_url, self._client.headers
        async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=60) as client:
            return max(await asyncio.gather(*(follow() for _ in range(_EVENT_STREAMS))))

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


_ALL = sorted(name for name in vars(Attacks) if not name.startswith("_"))
AGENT_ATTACKS = tuple(name for name in _ALL if name.startswith("agent"))
ATTACKS = tuple(name for name in _ALL if name not in AGENT_ATTACKS)


@dataclass(frozen=True)
class Hostile:
    """The hostile tenant.

    Attributes:
        url: The gateway's.
        key: Its key.
        attacks: Names of methods of ``Attacks``.
        agent: Id of its agent; empty without agents.
    """

    url: str
    key: str
    attacks: tuple[str, ...]
    agent: str = ""


def run_attacks(hostile: Hostile, seconds: float, results: Any) -> None:
    """The hostile tenant's process: every attack in a loop; puts counts of statuses."""
    # Ray runs its workers with 15: who attacks from elsewhere takes no core from them.
    os.nice(19)
    results.put(asyncio.run(attack(hostile, seconds)))


async def attack(hostile: Hostile, seconds: float) -> dict[str, dict[str, int]]:
    """Try every attack in several loops; how often each was answered how."""
    statuses: dict[str, Counter[str]] = {name: Counter() for name in hostile.attacks}
    # With half heads and event streams 500 at most: the gateway lets a source have 512, and the
    # honest tenant has the same address here.
    limits = httpx.Limits(max_connections=200)
    parsed = httpx.URL(hostile.url)
    headers = {"Authorization": f"Bearer {hostile.key}"}
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
        base_url=hostile.url, headers=headers, timeout=60, limits=limits
    ) as client:
        attacks = Attacks(client, (parsed.host, int(parsed.port or 80)), hostile.agent)
        await asyncio.gather(
            *(
                loop(getattr(attacks, name), statuses[name])
                for name in hostile.attacks
                for _ in range(_ATTACKERS)
            )
        )
    return {name: dict(counts) for name, counts in statuses.items()}


# --- the comparison


def compare(honest: str, hostile: Hostile, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the honest tenant, by its key, alone and beside the hostile one."""
    url = hostile.url
    asyncio.run(measure(url, honest, 3))
    quiet = asyncio.run(measure(url, honest, options.quiet))
    before_mb = memory_mb()
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    arguments = (hostile, options.seconds + 5, results)
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


def start_agent(url: str, key: str) -> str:
    """The id of an agent whose process runs: it is not what the attack adds."""
    with httpx.Client(
        base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60
    ) as client:
        agent = client.post("/agents/create", json=_AGENT).raise_for_status().json()["agent_id"]
        task = client.post(f"/agents/{agent}/task", json={"task": "Hello"}).raise_for_status()
        path = f"/agents/{agent}/tasks/{task.json()['task_id']}"
        while client.get(path).raise_for_status().json()["status"] in ("queued", "running"):
            time.sleep(0.5)
    return str(agent)


def use_pictures(url: str, key: str) -> None:
    """Send a picture, for which the features app imports what memory it keeps."""
    body = {"artifact": _PICTURES, "rows": [{"i": b64encode(white_png(8)).decode()}]}
    headers = {"Authorization": f"Bearer {key}"}
    httpx.post(f"{url}/features/transform", json=body, headers=headers).raise_for_status()


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
    parser.add_argument("--agents", action="store_true", help="with agents, and attacks by them")
    parser.add_argument("--attack", action="append", choices=_ALL, help="only these")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with own_processes(), tempfile.TemporaryDirectory() as folder:
        settings = settings_in(Path(folder), options.set, agents=options.agents)
        allowance = Allowance(100_000)
        honest, _ = create_key(settings, ["features", "llm"], "honest", allowance=allowance)
        scopes = ["features", "ingest", "llm", "models", "train", "agents"]
        key, _ = create_key(settings, scopes, "hostile", allowance=allowance)
        names = options.attack or (_ALL if options.agents else ATTACKS)
        with deployment(settings) as url:
            use_pictures(url, honest)
            agent = start_agent(url, key) if options.agents else ""
            result = compare(honest, Hostile(url, key, tuple(names), agent), options)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print_table(result)
    if missed := missed_bars(result):
        sys.exit("\n".join(missed))


if __name__ == "__main__":
    main()
