from __future__ import annotations

import importlib.util
import re
import runpy
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jinja2
import pytest
import uvicorn

from sunloom.config import Settings
from sunloom.core.processes import free_port
from sunloom.errors import ServingError
from sunloom.serving.asgi import Receive, Scope, Send, send_body
from sunloom.serving.auth.failed_attempts import FailedAttempts
from sunloom.serving.deploy.deploy import with_port
from sunloom.serving.deploy.environment import check_closed, instance_folder, serving_environment
from sunloom.serving.deploy.haproxy import INSTANCE, ProxyRules, close_template, haproxy_binary


def test_instances_share_nothing(settings: Settings, tmp_path: Path) -> None:
    paths = settings.paths.model_copy(update={"state": tmp_path / "other"})
    other = settings.model_copy(update={"paths": paths})
    mine, theirs = serving_environment(settings), serving_environment(other)
    differing = {name for name in mine if mine[name] != theirs[name]}
    ports = {name for name in mine if name.endswith("_PORT")}
    assert len({mine[name] for name in ports}) == len(ports) == 3
    assert {INSTANCE, *ports} <= differing
    assert {name for name in mine if "HAPROXY" in name and "/" in mine[name]} <= differing
    assert serving_environment(settings) == mine


def test_socket_paths_stay_short(settings: Settings) -> None:
    folder = instance_folder(settings)
    node_id, suffix = "f" * 56, ".4194304.tmp"
    assert len(f"{folder}/{node_id}/metrics.sock{suffix}") < 107
    assert folder.stat().st_mode & 0o077 == 0


def test_the_rules_close_what_ray_opens() -> None:
    text = render(RULES, metrics_port=9101, stats_port=8404)
    binds = re.findall(r"bind (\S+)", text)
    assert binds == ["127.0.0.1:9101", "127.0.0.1:8000", "127.0.0.1:8404"]
    assert text.count("http-request deny deny_status 401") == 2
    assert "the-routes" not in text
    assert r'string "{\"error\": {\"type\": \"authentication_error\"' in text
    assert "option abortonclose" in text
    assert "splice" not in text
    assert "    stats socket /tmp/admin.sock mode 600 level admin" in text
    assert "    option httplog\n    option dontlog-normal\n" in text
    assert "    option log-health-checks\n    timeout http-request 10000ms\n" in text
    assert "    tcp-request connection reject if { sc0_conn_cur gt 512 }\n" in text


def test_bounds_hold_where_statistics_may_be_read() -> None:
    text = render(replace(RULES, loopback_only=False), metrics_port=9101, stats_port=8404)
    assert re.findall(r"bind (\S+)", text) == [":9101", "127.0.0.1:8000", "*:8404"]
    assert "the-routes" in text
    assert "timeout http-request 10000ms\n" in text
    assert "sc0_conn_cur gt 512" in text
    assert "splice" not in text


def test_requests_are_logged_where_somebody_reads() -> None:
    assert "dontlog" not in render(replace(RULES, has_log_reader=True))


def test_another_template_of_ray_is_refused() -> None:
    with pytest.raises(ServingError, match="option splice-request"):
        close_template(TEMPLATE.replace("    option splice-request\n", ""), RULES)


def test_the_rules_travel_as_variables(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"connections_per_source": 7, "loopback_only": False}
    serving = settings.serving.model_copy(update=changes)
    environment = serving_environment(settings.model_copy(update={"serving": serving}))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    rules = ProxyRules.from_environment()
    assert (rules.arrival_s, rules.connections_per_source) == (10.0, 7)
    assert (rules.loopback_only, rules.has_log_reader) == (False, False)
    assert re.fullmatch("[0-9a-f]{16}", rules.token)
    assert environment["FORWARDED_ALLOW_IPS"] == ""


def test_an_app_is_not_built_for_a_serve_with_open_ports(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = settings.model_copy(update={"environment": "production"})
    monkeypatch.delenv("RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH", raising=False)
    with pytest.raises(ServingError, match="RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH"):
        check_closed(live)
    for name, value in serving_environment(live).items():
        monkeypatch.setenv(name, value)
    check_closed(live)


def test_slow_heads_end_and_a_source_has_few_connections(tmp_path: Path) -> None:
    """The real HAProxy with the rules, an arrival of 0.6 s and four connections a source."""
    rules = replace(RULES, arrival_s=0.6, connections_per_source=4)
    port = free_port()
    with haproxy(rules, tmp_path, port) as stack:
        # Its threads accept in any order: one of the five is reset, in the handshake or after it.
        sockets = [s for _ in range(5) if (s := _connect_slowly(port)) is not None]
        answers = [_answer_of(stack.enter_context(slow)).split(b"\r\n")[0] for slow in sockets]
        assert [answer for answer in answers if answer] == [b"HTTP/1.1 408 Request Time-out"] * 4
        again = stack.enter_context(_connect(port))
        again.sendall(b"GET /-/healthz HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        assert _answer_of(again).startswith(b"HTTP/1.1 200 OK")


def test_a_source_is_what_haproxy_says_whatever_the_client_does(tmp_path: Path) -> None:
    """Failed attempts by their source, through the real HAProxy from two addresses."""
    seen: list[tuple[str, str | None]] = []
    attempts = FailedAttempts(token=RULES.token)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        forwarded = headers.get(b"x-forwarded-for")
        source = attempts.source_of(scope["client"][0], headers)
        seen.append((source, forwarded and forwarded.decode()))
        await send_body(send, 200, b"{}")

    port, replica = free_port(), free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=replica, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    forged = {
        "X-Sunloom-Source": f"{RULES.token} 10.9.9.9",
        "X-Forwarded-For": "10.9.9.9",
        "Forwarded": "for=10.9.9.9",
    }
    with haproxy(RULES, tmp_path, port, replica):
        for address in ("127.0.0.2", "127.0.0.3"):
            transport = httpx.HTTPTransport(local_address=address)
            with httpx.Client(transport=transport, base_url=f"http://127.0.0.1:{port}") as client:
                assert client.get("/", headers=forged).status_code == 200
        assert seen == [("127.0.0.2", None), ("127.0.0.3", None)]
    # Past HAProxy, to the replica itself: without its token nobody is believed.
    seen.clear()
    headers = {"X-Sunloom-Source": "guessed 10.9.9.9"}
    assert httpx.get(f"http://127.0.0.1:{replica}", headers=headers).status_code == 200
    assert seen == [("127.0.0.1", None)]
    server.should_exit = True
    thread.join(10)


@contextmanager
def haproxy(
    rules: ProxyRules, folder: Path, port: int, replica: int | None = None
) -> Iterator[ExitStack]:
    """The real HAProxy with Ray's configuration under the rules."""
    config = folder / "haproxy.cfg"
    ports = {"frontend_port": port, "metrics_port": free_port(), "stats_port": free_port()}
    config.write_text(render(rules, replica, socket_path=str(folder / "a"), **ports))
    command = [haproxy_binary(), "-db", "-f", str(config)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process, ExitStack() as stack:
        stack.callback(process.terminate)
        # Another of its ports: a connection to the gateway's would count.
        _connect(ports["stats_port"]).close()
        yield stack


def render(rules: ProxyRules, replica: int | None = None, **ports: Any) -> str:
    """Ray's own template under the rules, as Ray renders it, with one app or none."""
    backend = None
    if replica is not None:
        server = _Given(name="replica", host="127.0.0.1", port=replica)
        backend = _Given(name="app", path_prefix="/", servers=[server])
    health = _Given(default_server_directive="default-server fastinter 100ms")
    config = {
        "socket_path": "/tmp/admin.sock", "log_target": "127.0.0.1:514", "maxconn": 4096,
        "nbthread": 2, "bufsize": 16384, "timeout_client_s": 20, "timeout_connect_s": 5,
        "timeout_server_s": 20, "retry_on": "conn-failure", "balance_algorithm": "leastconn",
        "frontend_host": "127.0.0.1", "frontend_port": 8000, "metrics_port": 9101,
        "metrics_uri": "/metrics", "stats_port": 8404, "stats_uri": "/stats",
        "health_check_endpoint": "/-/healthz",
    } | ports  # fmt: skip
    environment = jinja2.Environment()
    environment.filters["haproxy_fmt"] = str
    routes = {"status": 200, "routes_content_type": "text/plain", "routes_message": "the-routes"}
    return (
        environment.from_string(close_template(TEMPLATE, rules)).render(
            config=_Given(**config),
            route_info=_Given(**routes),
            healthz_rules="    acl healthcheck path -i /-/healthz\n"
            "    http-request return status 200 if healthcheck\n",
            backends=[backend] if backend else [],
            backends_with_health_config=[_Given(backend=backend, health_config=health)]
            if backend
            else [],
            grpc_backends=[],
        )
        + "\n"
    )


class _Given:
    """Attributes, and None for whatever else a template asks for."""

    def __init__(self, **given: Any) -> None:
        vars(self).update(given)

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def _template() -> str:
    # Read, not imported: ray.serve takes seconds.
    (ray,) = importlib.util.find_spec("ray").submodule_search_locations  # type: ignore[union-attr]
    names = runpy.run_path(str(Path(ray) / "serve/_private/haproxy_templates.py"))
    return str(names["HAPROXY_CONFIG_TEMPLATE"])


TEMPLATE = _template()
RULES = ProxyRules(arrival_s=10.0, connections_per_source=512, loopback_only=True, token="f00d")


def _connect(port: int) -> socket.socket:
    deadline = time.monotonic() + 20
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=20)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "HAProxy did not start"
            time.sleep(0.02)


def _connect_slowly(port: int) -> socket.socket | None:
    """A connection with half a head sent; None where it is refused."""
    with suppress(ConnectionResetError, BrokenPipeError):
        connection = _connect(port)
        connection.sendall(b"GET / HTTP/1.1\r\nhost: h\r\n")
        return connection
    return None


def _answer_of(connection: socket.socket) -> bytes:
    """Everything until the other side closes."""
    answer = b""
    with suppress(ConnectionResetError):
        while data := connection.recv(65536):
            answer += data
    return answer


def test_a_used_port_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    # Another test of the session may be serving in this process.
    monkeypatch.setattr("sunloom.serving.deploy.deploy._http_port", lambda: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        serving = settings.serving.model_copy(update={"port": port})
        with pytest.raises(ServingError, match=str(port)):
            with_port(settings.model_copy(update={"serving": serving}))
    serving = settings.serving.model_copy(update={"port": 0})
    assert with_port(settings.model_copy(update={"serving": serving})).serving.port > 0
    assert free_port() > 0
