"""A job joins the cluster that runs it, whichever other clusters its machine has."""

from __future__ import annotations

import os
import subprocess
import sys

from sunloom.core.cluster import address_of_raylet

PRINT = "from sunloom.core.cluster import address_of_raylet as a; print(a())"


def test_a_job_knows_the_raylet_that_started_it() -> None:
    # A raylet, its worker, and the job's driver, as their command lines say.
    worker = f'"{sys.executable}" -c "{PRINT}"; true'
    raylet = f"bash -c '{worker}' worker --gcs-address=10.0.0.1:1; true"
    arguments = ["-c", raylet, "--node_manager_port=0", "--gcs-address=127.0.0.1:7001"]
    # Under the name that Ray's program has.
    start = ["bash", "-c", 'exec -a /ray/core/raylet bash "$@"', "bash", *arguments]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(start, env=environ, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "127.0.0.1:7001", done.stderr


def test_elsewhere_there_is_none() -> None:
    assert address_of_raylet() is None
