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
# Whatever a file names first in this list is where it runs.
GROUPS = {
    "training": r"\bllm\.launch\b|\bllm\.trainer\b",
    "ray": r"\bray_local\b|\bgateway: RunningGateway\b",
    "redis": r"\bredis_server\b",
    "postgres": r"\bpostgres: str\b",
}


@cache
def group_of(file: str) -> str:
    """The group of a test file: the start that it needs, else the file itself.

    Args:
        file: Path from the project's root.
    """
    if not file.startswith("tests/unit"):
        source = (ROOT / file).read_text()
        for name, uses in GROUPS.items():
            if re.search(uses, source):
                return name
    return file


def rank(file: str) -> tuple[int, str]:
    """Sorts files: groups in their order, then other files, and the short unit tests at the end."""
    group = group_of(file)
    names = list(GROUPS)
    place = names.index(group) if group in names else len(names) + file.startswith("tests/unit")
    return place, group


class SharedStarts(LoadScopeScheduling):
    """Gives each process whole groups of files."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid.partition("::")[0])


# Optional: the hook is unknown where the plugin is switched off.
@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SharedStarts | None:
    """Takes the place of xdist's ``loadfile``."""
    return SharedStarts(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The order in which groups are given out."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: rank(item.nodeid.partition("::")[0]))
