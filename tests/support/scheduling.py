"""Order and places of tests that run beside each other (``pytest -n 3 --dist loadfile``).

Each process starts what its own tests ask for, so files that need the same costly start stay in
one process; the longest come first, and no long one is left for the end. xdist's own
``loadgroup`` does not see its marks with pytest 9.2, where ``_nodeid`` is no longer read.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[2]
# The start that a file needs is the first that it names; the longest come first.
STARTS = {
    "gateway": r"\bgateway: RunningGateway\b",
    "training": r"\bllm\.launch\b|\bllm\.trainer\b",
    "ray": r"\bray_local\b",
    "redis": r"\bredis_server\b",
    "postgres": r"\bpostgres: str\b",
}
# Each process has a Ray of its own sooner or later: only these are better started once.
SHARED = ("gateway", "redis", "postgres")


@cache
def start_of(file: str) -> str | None:
    """The costly start that a test file needs, if any.

    Args:
        file: Path from the project's root.
    """
    if file.startswith("tests/unit"):
        return None
    source = (ROOT / file).read_text()
    return next((name for name, uses in STARTS.items() if re.search(uses, source)), None)


def group_of(file: str) -> str:
    """The group of a test file, which stays in one process: the start that it shares, or itself."""
    start = start_of(file)
    return start if start in SHARED else file


def rank(file: str) -> tuple[int, str]:
    """Sorts files: by their start, then those without one, and the short unit tests at the end."""
    start = start_of(file)
    names = list(STARTS)
    place = names.index(start) if start else len(names) + file.startswith("tests/unit")
    return place, group_of(file)


class SharedStarts(LoadScopeScheduling):
    """Gives each process whole groups of files."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid.partition("::")[0])


# Optional: the hook is unknown where the plugin is switched off.
@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SharedStarts | None:
    """Takes the place of xdist's ``loadfile``."""
    return SharedStarts(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order in which groups are given out; what needs the gateway comes before another Ray."""
    items.sort(key=lambda item: rank(item.nodeid.partition("::")[0]))
