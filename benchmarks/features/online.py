"""Online reads in process: ours, the bare store with the same record, and Feast, in one run.

    .venv/bin/python -m benchmarks.features.online --feast-python VENV/bin/python --write

Ten floats of 1 and of 100 random entities out of 20,000, on LMDB and on a private Redis over TCP
and a unix socket. Prints the least of the rounds' median microseconds and the ratios; all arms take
turns. Feast lives in an environment of its own:

    python3.11 -m venv VENV && VENV/bin/pip install 'feast[redis]==0.67.0'
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import polars as pl
import redis

from benchmarks.features.measure import circumstances
from sunloom.config.feature_store import RedisOnline
from sunloom.core.processes import free_port
from sunloom.feature_store.stores.online.lmdb import EmbeddedStore
from sunloom.feature_store.stores.online.online_store import OnlineStore
from sunloom.feature_store.stores.online.redis import RedisStore
from sunloom.feature_store.stores.online.stored_feature_set import record_prefix

ENTITIES = 20_000
NAMES = tuple(f"f{i}" for i in range(10))
READS = {1: 600, 100: 80}
RESULTS = Path(__file__).parents[1] / "results" / "online.json"
PEER = Path(__file__).with_name("online_feast.py")
SET = "values"
Read = Callable[[list[int]], list[dict[str, Any] | None]]


@dataclass
class Arm:
    """One way to read.

    Attributes:
        name: Its name.
        round: Measures once: number of entities to median microseconds.
    """

    name: str
    round: Callable[[], Mapping[int, float]]


def main() -> None:
    """Measure, print, and write the record if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--feast-python", type=Path, help="A Python with feast[redis].")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help=f"Write {RESULTS.name}.")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sl-online-")))
        arms = our_arms(folder, stack)
        if options.feast_python:
            arms += feast_arms(options.feast_python, folder, stack)
        medians = measured(arms, options.rounds)
    record = circumstances("lmdb", "redis", "polars") | {
        "entities_stored": ENTITIES,
        "features": len(NAMES),
        "median_us": medians,
        "ratios": ratios(medians),
        "bars": {
            "embedded_against_feast_sqlite": ">= 15",
            "redis_against_feast_redis": ">= 5",
            "against_bare": ">= 0.5",
        },
    }
    print(json.dumps(record, indent=1))
    if options.write:
        RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def measured(arms: list[Arm], rounds: int) -> dict[str, dict[str, float]]:
    """Least median of each arm by number of entities."""
    found: dict[str, list[Mapping[int, float]]] = {arm.name: [] for arm in arms}
    for _ in range(rounds):
        for arm in arms:
            found[arm.name].append(arm.round())
    return {
        name: {str(count): round(min(one[count] for one in each), 1) for count in READS}
        for name, each in found.items()
    }


def ratios(medians: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """How many times faster than each peer; against the bare store at most about 1."""
    pairs = [
        ("embedded", "bare LMDB"),
        ("redis unix", "bare redis unix"),
        ("redis tcp", "bare redis tcp"),
        ("embedded", "feast sqlite"),
        ("redis unix", "feast redis"),
        ("redis tcp", "feast redis"),
    ]
    return {
        f"{ours} against {peer}": {
            count: round(medians[peer][count] / medians[ours][count], 2) for count in medians[ours]
        }
        for ours, peer in pairs
        if peer in medians
    }


def our_arms(folder: Path, stack: ExitStack) -> list[Arm]:
    """Both stores of ours, and the same bytes read without them."""
    table = stored_table()
    embedded = EmbeddedStore(folder / "embedded")
    server = stack.enter_context(private_redis(folder))
    stores: dict[str, OnlineStore] = {"embedded": embedded}
    bare: dict[str, Read] = {"bare LMDB": bare_lmdb(embedded)}
    for name, url in server.items():
        config = RedisOnline(url=url, prefix=f"{name}:")
        stores[f"redis {name}"] = RedisStore(config)
        bare[f"bare redis {name}"] = bare_redis(url, config.prefix)
    for store in stores.values():
        store.write(SET, table)
    reads: dict[str, Read] = {name: reader(store) for name, store in stores.items()} | bare
    asked = list(range(0, ENTITIES, 997))
    expected = table[asked].select(NAMES).to_dicts()
    for name, read in reads.items():
        assert read(asked) == expected, name
    return [Arm(name, rounds_of(read)) for name, read in reads.items()]


def stored_table() -> pl.DataFrame:
    """Ten numbers of each entity."""
    numbers = np.random.default_rng(0).normal(size=(ENTITIES, len(NAMES)))
    moment = pl.lit(datetime(2026, 3, 1, tzinfo=UTC), pl.Datetime("us", "UTC"))
    return pl.DataFrame(numbers, schema=list(NAMES)).with_columns(
        id=pl.int_range(ENTITIES, dtype=pl.Int64), event_time=moment
    )


def reader(store: OnlineStore) -> Read:
    """Reads through the store."""
    return lambda ids: store.read(SET, ids)


def rounds_of(read: Read) -> Callable[[], Mapping[int, float]]:
    """Medians of a round."""
    return lambda: {count: median_us(read, count, reads) for count, reads in READS.items()}


def median_us(read: Read, entities: int, reads: int) -> float:
    """Median time of a read of random entities."""
    taken = []
    for _ in range(reads):
        ids = [random.randrange(ENTITIES) for _ in range(entities)]
        start = time.perf_counter()
        read(ids)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e6


def bare_lmdb(store: EmbeddedStore) -> Read:
    """One transaction, one get a key, one unpack a record, and a dict."""
    environment: lmdb.Environment = store._backend._env  # type: ignore[attr-defined]

    def read(ids: list[int]) -> list[dict[str, Any] | None]:
        keys = bare_keys(ids)
        with environment.begin() as transaction:
            return unpacked([transaction.get(key) for key in keys])

    return read


def bare_redis(url: str, prefix: str) -> Read:
    """One ``MGET`` of the client, one unpack a record, and a dict."""
    client = redis.Redis.from_url(url)
    before = prefix.encode()
    return lambda ids: unpacked(client.mget([before + key for key in bare_keys(ids)]))


_KEY = struct.Struct(">Q")
_VALUES = struct.Struct(f"<12x{len(NAMES)}d")


def bare_keys(ids: list[int]) -> list[bytes]:
    """The records' keys."""
    prefix = record_prefix(SET)
    return [prefix + _KEY.pack(entity + (1 << 63)) for entity in ids]


def unpacked(records: list[bytes]) -> list[dict[str, Any] | None]:
    """Names and values."""
    return [dict(zip(NAMES, _VALUES.unpack(record), strict=False)) for record in records]


@contextmanager
def private_redis(folder: Path) -> Iterator[dict[str, str]]:
    """A Redis of our own; gives its two addresses."""
    program = shutil.which("redis-server")
    if program is None:
        sys.exit("redis-server is missing: apt-get install redis-server")
    port, socket = free_port(), folder / "redis.sock"
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    options += ["--unixsocket", str(socket), "--dir", str(folder)]
    server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    try:
        while not socket.exists():
            time.sleep(0.05)
        yield {"unix": f"unix://{socket}", "tcp": f"redis://127.0.0.1:{port}/0"}
    finally:
        server.terminate()
        server.wait(30)


def feast_arms(python: Path, folder: Path, stack: ExitStack) -> list[Arm]:
    """Feast over SQLite and over a Redis of its own on TCP."""
    own = folder / "feast-redis-server"
    own.mkdir()
    place = stack.enter_context(private_redis(own))["tcp"].removeprefix("redis://").split("/")[0]
    return [
        Arm("feast sqlite", feast_rounds(python, folder / "feast-sqlite", ["sqlite"], stack)),
        Arm("feast redis", feast_rounds(python, folder / "feast-redis", ["redis", place], stack)),
    ]


def feast_rounds(
    python: Path, folder: Path, online: list[str], stack: ExitStack
) -> Callable[[], Mapping[int, float]]:
    """A process that measures a round whenever it is asked."""
    peer = stack.enter_context(
        subprocess.Popen(
            [python, PEER, folder, *online],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    )
    assert peer.stdin is not None
    assert peer.stdout is not None
    stack.callback(peer.terminate)
    asking, answers = peer.stdin, peer.stdout
    next(line for line in answers if line.startswith("{"))

    def measure() -> Mapping[int, float]:
        asking.write("\n")
        asking.flush()
        return {int(count): us for count, us in json.loads(answers.readline()).items()}

    return measure


if __name__ == "__main__":
    main()
