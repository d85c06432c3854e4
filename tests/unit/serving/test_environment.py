from __future__ import annotations

import importlib.util
import re
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from sunloom.config import Settings
from sunloom.core.processes import free_port
from sunloom.errors import ServingError
from sunloom.serving.deploy.deploy import with_port
from sunloom.serving.deploy.environment import INSTANCE, instance_folder, serving_environment
from sunloom.serving.deploy.haproxy import haproxy_binary


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


def test_the_wrapper_closes_what_ray_opens(settings: Settings, tmp_path: Path) -> None:
    folder = Path(serving_environment(settings)[INSTANCE])
    config = tmp_path / "haproxy.cfg"
    config.write_text(_config())
    subprocess.run(["sed", "-i", "-f", str(folder / "close.sed"), str(config)], check=True)
    text = config.read_text()
    assert re.findall(r"bind (\S+)", text) == ["127.0.0.1:9101", "127.0.0.1:8000", "127.0.0.1:8404"]
    assert text.count("http-request deny deny_status 401") == 2
    assert "gateway" not in text
    assert r"{\"error\": {\"type\": \"authentication_error\"" in text
    assert 'string "success" if healthcheck' in text
    assert "option abortonclose" in text
    assert "splice" not in text
    assert text.startswith("global\n    stats socket /tmp/admin.sock mode 600 level admin\n")
    assert "    option httplog\n    option dontlog-normal\n" in text
    assert "    option log-health-checks\n    timeout http-request 10000ms\n" in text
    assert "    tcp-request connection reject if { sc0_conn_cur gt 512 }\n" in text
    subprocess.run(["sed", "-i", "-f", str(folder / "close.sed"), str(config)], check=True)
    assert config.read_text().count("stick-table") == 1, "a second start reads the same file"


def test_slow_heads_end_and_a_source_has_few_connections(
    settings: Settings, tmp_path: Path
) -> None:
    """The real HAProxy with the rules, an arrival of 0.6 s and four connections a source."""
    limits = settings.serving.limits.model_copy(update={"arrival_s": 0.6})
    changed = {"limits": limits, "connections_per_source": 4}
    serving = settings.serving.model_copy(update=changed)
    settings = settings.model_copy(update={"serving": serving})
    folder = Path(serving_environment(settings)[INSTANCE])
    port, config = free_port(), tmp_path / "haproxy.cfg"
    text = _config().replace("/tmp/admin.sock", str(tmp_path / "a")).replace("8000", str(port))
    text = text.replace("9101", str(free_port())).replace("8404", str(free_port()))
    config.write_text(text.replace(" if healthcheck", "").replace(" if routes", " if FALSE"))
    subprocess.run(["sed", "-i", "-f", str(folder / "close.sed"), str(config)], check=True)
    command = [haproxy_binary(), "-db", "-f", str(config)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process, ExitStack() as stack:
        stack.callback(process.terminate)
        # Its threads accept in any order: one of the five is reset, in the handshake or after it.
        sockets = [s for _ in range(5) if (s := _connect_slowly(port)) is not None]
        answers = [_answer_of(stack.enter_context(slow)).split(b"\r\n")[0] for slow in sockets]
        assert [answer for answer in answers if answer] == [b"HTTP/1.1 408 Request Time-out"] * 4
        again = stack.enter_context(_connect(port))
        again.sendall(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        assert _answer_of(again).startswith(b"HTTP/1.1 200 OK")


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


def test_requests_are_logged_where_somebody_reads(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_LOG_TARGET", "/dev/log")
    folder = Path(serving_environment(settings)[INSTANCE])
    assert "dontlog" not in (folder / "close.sed").read_text()


def _config() -> str:
    """The lines of Ray's template that matter, with its own words around them."""
    # Read, not imported: ray.serve takes seconds.
    (ray,) = importlib.util.find_spec("ray").submodule_search_locations  # type: ignore[union-attr]
    template = (Path(ray) / "serve/_private/haproxy_templates.py").read_text()
    assert "    bind :{{ config.metrics_port }}\n" in template
    assert "  bind *:{{ config.stats_port }}\n" in template
    assert 'string "{{ route_info.routes_message }}" if routes\n' in template
    assert "    option httplog\n" in template
    assert "    option log-health-checks\n" in template
    assert (
        "    option abortonclose\n    option splice-request\n    option splice-response\n"
        in template
    )
    assert "\nfrontend http_frontend\n" in template
    assert "    stats socket {{ config.socket_path }} mode 666 level admin" in template
    return (
        "global\n    stats socket /tmp/admin.sock mode 666 level admin\n"
        "defaults\n    mode http\n    option log-health-checks\n    timeout client 20s\n"
        "    option httplog\n    option abortonclose\n"
        "    option splice-request\n    option splice-response\n"
        "frontend prometheus\n    bind :9101\n    mode http\n"
        "frontend http_frontend\n    bind 127.0.0.1:8000\n"
        "    http-request return status 200 content-type text/plain "
        'string "success" if healthcheck\n'
        "    http-request return status 200 content-type application/json "
        'string "{\\"/\\":\\"gateway\\"}" if routes\n'
        "listen stats\n  bind *:8404\n  stats enable\n"
    )


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
