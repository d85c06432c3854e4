"""Fixtures that every test may use; the environment is set before any library reads it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from sunloom.config import Settings, load_config
from sunloom.core.telemetry import silence_libraries

# One gateway for integration and security tests: the fixture must be known to both folders.
sys.path.insert(0, str(Path(__file__).parent / "support"))
from browser_fixture import chromium
from faults import pytest_addoption, pytest_generate_tests, soak_s
from gateway_fixture import gateway, pytest_runtest_teardown
from postgres_fixture import postgres
from private_ray import ray_local
from redis_fixture import redis_server
from scheduling import pytest_collection_modifyitems, pytest_xdist_make_scheduler
from slow_tests import pytest_sessionfinish, pytest_terminal_summary
from webhook_receiver import receiver

__all__ = [
    "chromium",
    "gateway",
    "postgres",
    "pytest_addoption",
    "pytest_collection_modifyitems",
    "pytest_generate_tests",
    "pytest_runtest_teardown",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_xdist_make_scheduler",
    "ray_local",
    "receiver",
    "redis_server",
    "soak_s",
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
