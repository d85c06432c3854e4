"""Commands that talk to the gateway, against a small HTTP server that answers as it does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from sunloom.cli.gateway import ServerSentEvent, error_of, parse_events
from sunloom.errors import AuthenticationError, NotFoundError, RateLimitError, ServingError
from tests.unit.cli.conftest import Cli

EVENTS = (
    'id: 1\nevent: queued\ndata: {"seq": 1}\n\n: still running\n\nid: 2\nevent: {end}\ndata: {}\n\n'
)


TRAINING = (
    'event: status\ndata: {"status": "running"}\n\n'
    'id: 4\nevent: step\ndata: {"step": 4, "steps": 9, "loss": 0.25, "gradient_norm": 1.5}\n\n'
    'event: end\ndata: {"status": "{end}", "error": null}\n\n'
)


class Answers(BaseHTTPRequestHandler):
    """Routes of the agents app, with one agent and one task."""

    end: ClassVar[str] = "succeeded"
    seen: ClassVar[list[tuple[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, body))
        if self.headers["Authorization"] != "Bearer sl-right":
            error = {"message": "This route needs a key.", "hint": "Send one.", "param": None}
            return self.answer(401, {"error": error})
        if self.path == "/agents/create":
            return self.answer(201, {"agent_id": "agent_1"})
        return self.answer(202, {"task_id": "task_1"})

    def do_DELETE(self) -> None:
        self.seen.append((f"DELETE {self.path}", None))
        self.answer(200, {"agent_id": "agent_1", "deleted": True, "cancelled_tasks": []})

    def do_GET(self) -> None:
        if self.path == "/llm/training/raysubmit_1/events":
            self.seen.append((self.path, self.headers["Last-Event-ID"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(TRAINING.replace("{end}", self.end).encode())
        elif self.path.endswith("/events"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(EVENTS.replace("{end}", self.end).encode())
        elif self.path == "/agents":
            row = {"agent_id": "agent_1", "name": "retail", "engine": "crewai", "model": "m"}
            self.answer(200, {"agents": [row | {"created_at": "2026-01-02"}]})
        else:
            self.answer(200, {"status": self.end, "answer": "Yes, a voucher.", "error": None})

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def url() -> Iterator[str]:
    Answers.seen, Answers.end = [], "succeeded"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()


def run(cli: Cli, url: str, *more: str, key: str = "sl-right") -> Any:
    words = ("agents", "run", "conf/agentic/retail.yaml", "Should customer 1 get a voucher?")
    return cli(*words, *more, SUNLOOM_URL=url, SUNLOOM_KEY=key)


def test_run_creates_asks_follows_and_prints_the_answer(cli: Cli, url: str) -> None:
    done = run(cli, url, "--engine", "semantic_kernel")
    assert (done.status, done.out.strip()) == (0, "Yes, a voucher.")
    assert [path for path, _ in Answers.seen] == [
        "/agents/create",
        "/agents/agent_1/task",
        "DELETE /agents/agent_1",
    ]
    spec, task, _ = (body for _, body in Answers.seen)
    assert spec["engine"] == "semantic_kernel"
    assert task == {"task": "Should customer 1 get a voucher?"}
    assert "queued" in done.err


def test_delete_list_and_approve(cli: Cli, url: str) -> None:
    access = {"SUNLOOM_URL": url, "SUNLOOM_KEY": "sl-right"}
    deleted = cli("agents", "delete", "agent_1", **access)
    assert deleted.out.strip() == "agent_1 is deleted, 0 tasks cancelled"
    assert cli("agents", "delete", "agent_1", "--json", **access).json["deleted"] is True
    row = {"agent_id": "agent_1", "name": "retail", "engine": "crewai", "model": "m"}
    listed = cli("agents", "list", "--json", **access).json
    assert listed["agents"][0] == row | {"created_at": "2026-01-02"}
    assert "agent_1" in cli("agents", "list", **access).out
    Answers.seen.clear()
    words = (
        "agents",
        "approve",
        "agent_1",
        "task_1",
        "--deny",
        "--note",
        "too dear",
        "--call",
        "3",
    )
    assert cli(*words, **access).out.strip() == "denied"
    decision = {"approved": False, "call": 3, "note": "too dear"}
    assert Answers.seen == [("/agents/agent_1/tasks/task_1/approve", decision)]


def test_a_failed_task_exits_1(cli: Cli, url: str) -> None:
    Answers.end = "failed"
    done = run(cli, url, "--json")
    assert done.status == 1
    assert done.json["status"] == "failed"


def test_a_wrong_key_is_reported_in_the_gateways_words(cli: Cli, url: str) -> None:
    done = run(cli, url, key="sl-wrong")
    assert done.status == 2
    assert done.err.strip().splitlines() == ["error: This route needs a key.", "  Send one."]


def test_no_gateway_says_how_to_start_one(cli: Cli) -> None:
    done = run(cli, "http://127.0.0.1:9")
    assert done.status == 1
    assert "sunloom serve run" in done.err


def test_events_are_parsed_as_the_standard_says() -> None:
    text = 'id: 7\nevent: note\ndata: {"a":\ndata: 1}\n\n: comment\n\ndata: plain\n\nid: 9\n\n'
    assert list(parse_events(iter(text.split("\n")))) == [
        ServerSentEvent("7", "note", {"a": 1}),
        ServerSentEvent(None, None, "plain"),
    ]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, AuthenticationError), (404, NotFoundError), (429, RateLimitError), (500, ServingError)],
)
def test_statuses_become_errors(status: int, kind: type[Exception]) -> None:
    body = {"error": {"message": "No.", "hint": "Do this.", "param": "x"}}
    error = error_of(status, json.dumps(body))
    assert type(error) is kind
    assert (error.message, error.hint, error.param) == ("No.", "Do this.", "x")
    assert "500" in str(error_of(500, "<html>oops"))
