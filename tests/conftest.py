"""Fixtures that every test may use; the environment is set before any library reads it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sunloom.config import Settings, load_config
from sunloom.core.telemetry import silence_libraries

# One gateway for integration and security tests: the fixture must be known to both folders.
sys.path.insert(0, str(Path(__file__).parent / "support"))
from gateway_fixture import gateway, pytest_runtest_teardown, uses_gateway
from postgres_fixture import postgres
from redis_fixture import redis_server
from scheduling import pytest_collection_modifyitems, pytest_xdist_make_scheduler
from slow_tests import pytest_sessionfinish, pytest_terminal_summary
from webhook_receiver import receiver

__all__ = [
    "gateway",
    "postgres",
    "pytest_collection_modifyitems",
    "pytest_runtest_teardown",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_xdist_make_scheduler",
    "receiver",
    "redis_server",
]

silence_libraries()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")
# Ray's workers have the lowest priority but one: beside tests that compute they would not get on.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("SUNLOOM_ENV", "test")
# A shell starts what runs in its background with Ctrl-C ignored, and what is ignored stays so:
# tests that interrupt work would wait for an interrupt that never comes.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings whose state and outputs lie in the test's own folder."""
    sets = [f"paths.state={tmp_path / 'state'}", f"paths.outputs={tmp_path / 'outputs'}"]
    return load_config(Settings, sets=sets, conf_dir=ROOT / "conf").config


@pytest.fixture(scope="session")
def ray_local(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """One private Ray for the whole session; gives its address."""
    from sunloom.core.cluster import connect, disconnect
    from sunloom.core.processes import own_processes

    folder = tmp_path_factory.mktemp("ray")
    sets = [f"paths.state={folder / 'state'}", f"paths.outputs={folder / 'outputs'}"]
    sets += ["cluster.object_store_bytes=300000000", "cluster.num_cpus=4"]
    # Its processes take as long to start as Ray itself, and only the gateway's routes ask it.
    sets += [f"cluster.dashboard={any(map(uses_gateway, request.session.items))}"]
    with own_processes():
        yield connect(load_config(Settings, sets=sets, conf_dir=ROOT / "conf").config).address
        disconnect()
