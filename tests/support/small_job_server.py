"""A job server that keeps what is submitted and runs nothing, with Ray's own HTTP interface."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import ray


@dataclass
class SmallJobServer:
    """A running server.

    Attributes:
        url: Its address.
        jobs: Ray's ``JobDetails`` by submission id, oldest first.
        logs: Logs by submission id.
        submitted: Bodies of the submissions, oldest first.
    """

    url: str = ""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    submitted: list[dict[str, Any]] = field(default_factory=list)

    def add(self, job_id: str, metadata: dict[str, str], status: str = "RUNNING") -> None:
        """A job as if it had been submitted."""
        self.jobs[job_id] = {
            "type": "SUBMISSION", "submission_id": job_id, "status": status,
            "entrypoint": "python", "metadata": metadata, "start_time": 1000 + len(self.jobs),
        }  # fmt: skip

    def answer(self, method: str, path: str, body: Any) -> Any:
        """The JSON that Ray's server would send; None is 404."""
        job_id, _, rest = path.removeprefix("/api/jobs/").partition("/")
        if path == "/api/version":
            return {"version": "4", "ray_version": ray.__version__, "ray_commit": ""}
        # Every package is there already: nothing needs to be uploaded.
        if path.startswith("/api/packages/"):
            return {}
        if path == "/api/jobs/" and method == "GET":
            return list(self.jobs.values())
        if path == "/api/jobs/":
            job_id = f"raysubmit_{len(self.jobs)}"
            self.submitted.append(body)
            self.add(job_id, body["metadata"])
            return {"job_id": job_id, "submission_id": job_id}
        if job_id not in self.jobs:
            return None
        if rest == "stop":
            self.jobs[job_id]["status"] = "STOPPED"
            return {"stopped": True}
        return {"logs": self.logs.get(job_id, "")} if rest == "logs" else self.jobs[job_id]


@contextmanager
def small_job_server() -> Iterator[SmallJobServer]:
    """A server on a free port of loopback."""
    state = SmallJobServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = state.answer(self.command, self.path, json.loads(body) if body else None)
            self.send_response(404 if answer is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
