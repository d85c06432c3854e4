"""What tools return and raise: one encoder for all of it, stored before anything else happens."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections import deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import polars as pl
import pytest
from pydantic import BaseModel, SecretStr
from sqlalchemy.exc import OperationalError

from sunloom.agents.gateway_client import Endpoint, GatewayClient
from sunloom.agents.journal import Journal
from sunloom.agents.store import AgentStore
from sunloom.agents.tools.result_encoder import MAX_RESULT_CHARS, encode_result
from sunloom.agents.tools.tool import NoOptions, Parameters, Tool
from sunloom.agents.tools.toolbox import BoundTool, Toolbox
from sunloom.config.agents import AgentSpec
from sunloom.core.database import Database
from sunloom.errors import AgentError

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
NO_DATA = "work failed: it returned a {}; a tool must return data."
NUMBER = UUID("12345678-1234-5678-1234-567812345678")
Point = namedtuple("Point", "x y")


class _Colour(Enum):
    RED = "red"


class _Model(BaseModel):
    at: datetime
    secret: SecretStr


@dataclass
class _Record:
    n: Decimal
    more: Any


class _Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __len__(self) -> int:
        raise RuntimeError("no length")


class _HostileText(str):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def _circle() -> list[Any]:
    data: list[Any] = [1]
    data.append({"again": data})
    return data


def _deep() -> Any:
    data: Any = 1
    for _ in range(10_000):
        data = [data]
    return data


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (None, None),
        (True, True),
        (NOON, "2026-01-02T12:00:00+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (timedelta(minutes=1), 60.0),
        (Decimal("1.10"), "1.10"),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({"b", "a"}), ["a", "b"]),
        ("a\0b", "ab"),
        (b"text", "text"),
        (b"a\0b", "ab"),
        (b"\xff\x00", "/wA="),
        (NUMBER, str(NUMBER)),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array([1.0, np.nan, np.inf]), [1.0, None, None]),
        (np.datetime64("2026-01-02T12:00", "ns"), "2026-01-02T12:00:00.000000000"),
        (np.array(["2026-01-02"], dtype="datetime64[D]"), ["2026-01-02"]),
        (np.zeros(10_000_000), "<ndarray> of 10000000 values, too many to show"),
        (pl.DataFrame({"a": [1, 2], "b": ["x", None]}), [{"a": 1, "b": "x"}, {"a": 2, "b": None}]),
        (pl.Series([1, 2]), [1, 2]),
        (
            _Model(at=NOON, secret=SecretStr("hush")),
            {"at": NOON.isoformat(), "secret": "<SecretStr>"},
        ),
        (_Record(Decimal("2"), Point(1, 2)), {"n": "2", "more": {"x": 1, "y": 2}}),
        (_Colour.RED, "red"),
        (float("nan"), None),
        (float("-inf"), None),
        (
            {1: "a", (1, 2): "b", None: "c", False: "d", NOON: "e"},
            {"1": "a", "[1,2]": "b", "null": "c", "false": "d", NOON.isoformat(): "e"},
        ),
        (_circle(), [1, {"again": "<circular reference>"}]),
        ("half \ud83d", "half ?"),
        (_HostileText("text"), "text"),
        ([10**5000], ["<an integer of 16610 bits>"]),
        (deque([1, 2]), [1, 2]),
        ({"a": 1}.keys(), ["a"]),
        (range(3), [0, 1, 2]),
        (Path("/usr/lib/secret.txt"), "…/secret.txt"),
        (object(), "<object>"),
        (object, "<type>"),
        (_Hostile(), "<_Hostile>"),
        ([_Hostile(), 1], ["<_Hostile>", 1]),
        (threading.Lock(), "<lock>"),
    ],
)
def test_any_value_becomes_json(value: Any, encoded: Any) -> None:
    result = encode_result(value)
    assert result == encoded
    assert type(result) is type(encoded)
    assert json.loads(json.dumps(result, allow_nan=False)) == encoded


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**7,
        list(range(10**6)),
        {str(n): n for n in range(10**5)},
        [["y" * 1000] * 100] * 100,
        b"z" * 10**7,
        pl.DataFrame({"a": range(10**6)}),
        "\\" * 30_000,
        _deep(),
    ],
    ids=["text", "list", "mapping", "nested", "bytes", "table", "backslashes", "deep"],
)
def test_a_result_is_bounded_and_says_so(value: Any) -> None:
    began = time.thread_time()
    text = json.dumps(encode_result(value), ensure_ascii=False)
    assert time.thread_time() - began < 1
    assert len(text) < 2.1 * MAX_RESULT_CHARS
    assert any(said in text for said in ('"truncated"', "characters in all", "nested too deeply"))


class _Boxed:
    """One tool around a function, with a journal."""

    def __init__(self, folder: Path, function: Callable[..., Any]) -> None:
        self.store = AgentStore(Database(f"sqlite:///{folder / 'agents.db'}"))
        agent = self.store.create_agent(AgentSpec(name="one"), "acme")
        self.task_id = self.store.add_task(agent.id, "task").id
        tool = Tool(name="work", description="", parameters=Parameters, function=function)
        self._tools = {"work": BoundTool(tool, NoOptions())}
        self.events: list[dict[str, Any]] = []

    async def call(self) -> Any:
        async def emit(event: str, data: dict[str, Any]) -> None:
            self.events.append(data)

        gateway = GatewayClient(Endpoint("http://127.0.0.1:9", "KEY"), timeout_s=5)
        try:
            toolbox = Toolbox(self._tools, gateway, Journal(self.store, self.task_id), emit)
            return json.loads(await toolbox.call("work", "{}"))
        finally:
            await gateway.close()


def test_an_outcome_that_no_database_could_store_is_stored_and_replayed(tmp_path: Path) -> None:
    effects: list[int] = []

    async def work(_call: Any) -> Any:
        effects.append(1)
        return {"at": NOON, "spent": Decimal("1.5"), "ratio": np.float64("nan"), 7: {b"\xff"}}

    box = _Boxed(tmp_path, work)
    first, again = asyncio.run(box.call()), asyncio.run(box.call())
    assert first == {
        "at": "2026-01-02T12:00:00+00:00",
        "spent": "1.5",
        "ratio": None,
        "7": ["/w=="],
    }
    assert (again, effects) == (first, [1])
    assert [event["result"] for event in box.events] == [first]


def test_plain_functions_run_in_threads_side_by_side(tmp_path: Path) -> None:
    together = threading.Barrier(3, timeout=20)

    def work(_call: Any) -> dict[str, Any]:
        # Passes only if three run at once, none of them on the loop's thread.
        together.wait()
        return {"thread": threading.current_thread().name}

    async def three() -> list[Any]:
        return await asyncio.gather(*(_Boxed(tmp_path, work).call() for _ in range(3)))

    names = {result["thread"] for result in asyncio.run(three())}
    assert len(names) == 3
    assert all(name.startswith("tool") for name in names)


async def _later() -> dict[str, int]:
    return {"n": 1}


def _numbers() -> Any:
    yield 1


async def _async_numbers() -> Any:
    yield 1


async def _return_coroutine(_call: Any) -> Any:
    return _later()


async def _cancelled(_call: Any) -> Any:
    raise asyncio.CancelledError


async def _interrupted(_call: Any) -> Any:
    raise KeyboardInterrupt


async def _exit(_call: Any) -> Any:
    sys.exit(3)


def _sql(_call: Any) -> Any:
    raise OperationalError("UPDATE agent_journal SET x", {"key": "sl-1"}, ValueError("locked"))


def _path(_call: Any) -> Any:
    raise FileNotFoundError(2, "No such file", "/usr/lib/platform/key.txt")


def _stop(_call: Any) -> Any:
    raise StopIteration(1)


@pytest.mark.parametrize(
    ("function", "answer"),
    [
        (lambda _: _later(), {"n": 1}),
        (
            _return_coroutine,
            {"error": NO_DATA.format("coroutine")},
        ),
        (
            lambda _: _numbers(),
            {"error": NO_DATA.format("generator")},
        ),
        (
            lambda _: _async_numbers(),
            {"error": NO_DATA.format("async_generator")},
        ),
        (_exit, {"error": "work failed: SystemExit: 3"}),
        (lambda _: sys.exit("bye"), {"error": "work failed: SystemExit: bye"}),
        (_interrupted, {"error": "work failed: KeyboardInterrupt"}),
        (_cancelled, {"error": "work failed: CancelledError"}),
        (_stop, {"error": "work failed: RuntimeError: coroutine raised StopIteration"}),
        (_sql, {"error": "work failed: OperationalError: (builtins.ValueError) locked"}),
        (_path, {"error": "work failed: FileNotFoundError: [Errno 2] No such file: '…/key.txt'"}),
        (
            lambda _: 1 // 0,
            {"error": "work failed: ZeroDivisionError: integer division or modulo by zero"},
        ),
    ],
)
def test_whatever_a_tool_does_is_an_outcome(
    tmp_path: Path, function: Callable[..., Any], answer: Any
) -> None:
    box = _Boxed(tmp_path, function)
    assert asyncio.run(box.call()) == answer
    (entry,) = box.store.journal(box.task_id)
    assert entry.outcome == (answer if "error" in answer else {"result": answer})


def test_a_blocking_tool_that_is_cancelled_lets_go_at_once(tmp_path: Path) -> None:
    released = threading.Event()

    async def drive() -> None:
        box = _Boxed(tmp_path, lambda _: released.wait(20))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await box.call()

    began = time.monotonic()
    try:
        asyncio.run(drive())
        assert time.monotonic() - began < 5
    finally:
        released.set()


class _Forgetful(AgentStore):
    """A database that is away when an outcome is to be stored."""

    def close_entry(self, task_id: str, seq: int, outcome: dict[str, Any]) -> None:
        raise OperationalError("UPDATE agent_journal", {}, ValueError("away"))


def test_an_outcome_that_cannot_be_stored_ends_the_task(tmp_path: Path) -> None:
    box = _Boxed(tmp_path, lambda _: {"n": 1})
    box.store.__class__ = _Forgetful
    with pytest.raises(AgentError, match="could not be recorded") as failed:
        asyncio.run(box.call())
    assert "agent_journal" not in str(failed.value)
