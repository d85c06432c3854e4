"""A private Ray of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sunloom.config import Settings, load_config

CONF = Path(__file__).parents[2] / "conf"


@contextmanager
def private_ray(folder: Path, *, dashboard: bool) -> Iterator[str]:
    """A Ray with 4 CPUs of account and 300 MB of objects; gives its address, and ends it.

    Args:
        folder: Gets its state and outputs.
        dashboard: Whether it has one, with the server of jobs. Its processes take as long to start
            as Ray itself, and keep a twentieth of a core busy.
    """
    from sunloom.core.cluster import connect, disconnect
    from sunloom.core.processes import own_processes

    sets = [f"paths.state={folder / 'state'}", f"paths.outputs={folder / 'outputs'}"]
    sets += ["cluster.object_store_bytes=300000000", "cluster.num_cpus=4"]
    sets += [f"cluster.dashboard={dashboard}"]
    with own_processes():
        yield connect(load_config(Settings, sets=sets, conf_dir=CONF).config).address
        disconnect()


@pytest.fixture(scope="session")
def ray_local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One private Ray for all tests that need one; gives its address."""
    with ExitStack() as stack:
        ray = private_ray(tmp_path_factory.mktemp("ray"), dashboard=False)
        address = stack.enter_context(ray)
        _open.append(stack)
        yield address


_open: list[ExitStack] = []


def end_ray_before(next_test: pytest.Item | None) -> None:
    """End Ray ahead of the unit tests, which come last: its workers are never idle.

    Every server that the process started since ends with it, Redis and PostgreSQL too.
    """
    if _open and next_test is not None and next_test.nodeid.startswith("tests/unit"):
        _open.pop().close()
