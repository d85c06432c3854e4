from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

from sunloom.config import Settings
from sunloom.core.processes import free_port
from sunloom.errors import ServingError
from sunloom.serving.deploy.deploy import with_port
from sunloom.serving.deploy.environment import INSTANCE, instance_folder, serving_environment


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
    assert text.startswith("defaults\n    option httplog\n    option dontlog-normal\n")


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
    return (
        "defaults\n    option httplog\n"
        "frontend prometheus\n    bind :9101\n    mode http\n"
        "frontend http_frontend\n    bind 127.0.0.1:8000\n"
        '    http-request return status 200 string "success" if healthcheck\n'
        "    http-request return status 200 content-type application/json "
        'string "{\\"/\\":\\"gateway\\"}" if routes\n'
        "listen stats\n  bind *:8404\n  stats enable\n"
    )


def test_a_used_port_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

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
