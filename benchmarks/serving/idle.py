"""Processor time of an idle deployment, against Ray Serve with as many apps that do nothing.

    python -m benchmarks.serving.idle [--seconds 300]

Ours is the gateway, features, predictions and agents, the shipped language model on vLLM, and
HAProxy; the floor is what the same Ray costs with five deployments of one line. Both deploy on this
machine, loopback only, one after the other, and rest for half a minute before they are measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.serving.hostile_tenant import deployment, settings_in
from sunloom.core.processes import own_processes

RESULT = Path(__file__).parents[1] / "results" / "idle.json"
_REST_S = 30
_FLOOR = """
import sys
import ray
from ray import serve

ray.init(address="local", include_dashboard=True, logging_level="ERROR")
serve.start(http_options={"port": 0})

@serve.deployment(ray_actor_options={"num_cpus": 0})
class Nothing:
    async def __call__(self, request):
        return "nothing"

for number in range(5):
    serve.run(Nothing.bind(), name=f"app{number}", route_prefix=f"/app{number}")
print("ready", flush=True)
sys.stdin.read()
serve.shutdown()
ray.shutdown()
"""


def processor_share(root: psutil.Process, seconds: float) -> Counter[str]:
    """Percent of one core that the processes below one take, by what they are."""
    before = _processor_s(root)
    time.sleep(seconds)
    shares: Counter[str] = Counter()
    for process, used in _processor_s(root).items():
        with suppress(psutil.Error):
            title = " ".join(process.cmdline()).split(" ")[0].rsplit("/", 1)[-1]
            shares[title] += 100 * (used - before.get(process, 0.0)) / seconds
    return shares


def _processor_s(root: psutil.Process) -> dict[psutil.Process, float]:
    used = {}
    for process in root.children(recursive=True):
        with suppress(psutil.Error):
            times = process.cpu_times()
            used[process] = times.user + times.system
    return used


def measure_floor(seconds: float) -> Counter[str]:
    """Ray Serve with five apps that do nothing."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", _FLOOR], stdin=pipe, stdout=pipe) as process:
        assert process.stdin
        assert process.stdout
        while process.stdout.readline().strip() != b"ready":
            assert process.poll() is None
        time.sleep(_REST_S)
        shares = processor_share(psutil.Process(process.pid), seconds)
        process.stdin.close()
    return shares


def measure_ours(seconds: float, sets: Sequence[str]) -> Counter[str]:
    """The whole deployment."""
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_in(Path(folder), ["serving.agents.enabled=true", *sets])
        with deployment(settings):
            time.sleep(_REST_S)
            return processor_share(psutil.Process(), seconds)


def main() -> None:
    """Measure both and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    with own_processes():
        shares = {"floor": measure_floor(options.seconds)}
        shares["ours"] = measure_ours(options.seconds, options.set)
    totals = {name: round(share.total(), 2) for name, share in shares.items()}
    result = {
        "seconds": options.seconds,
        "percent_of_a_core": totals,
        "ours_to_floor": round(totals["ours"] / totals["floor"], 2),
        "by_process": {
            name: {title: round(percent, 2) for title, percent in share.most_common(12)}
            for name, share in shares.items()
        },
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
