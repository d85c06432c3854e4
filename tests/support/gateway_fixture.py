"""One gateway with every app and a real vLLM, started once for all tests that need it."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from private_ray import end_ray_before, private_ray

from sunloom.config import Settings, load_config

CONF = Path(__file__).parents[2] / "conf"
TIME = datetime(1998, 6, 30, tzinfo=UTC)


@dataclass(frozen=True)
class RunningGateway:
    """A deployment and a key that may do everything."""

    url: str
    key: str
    settings: Settings

    def call(self, method: str, path: str, key: str | None = "", **more: Any) -> httpx.Response:
        """One request; with no key at all when ``key`` is None."""
        headers = dict(more.pop("headers", {}))
        if key is not None:
            headers["Authorization"] = f"Bearer {key or self.key}"
        return httpx.request(method, self.url + path, headers=headers, timeout=60, **more)


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """The gateway, ready, on a Ray of its own: its routes ask the dashboard."""
    from sunloom.serving.auth.api_keys import Allowance, create_key
    from sunloom.serving.deploy.deploy import deploy, shutdown

    folder = tmp_path_factory.mktemp("gateway")
    settings = _settings(folder)
    _fill_registry(settings, folder)
    _fill_store(settings)
    key, _ = create_key(settings, ["admin"], "acme", allowance=Allowance(1_000_000))
    with ExitStack() as stack:
        stack.enter_context(private_ray(tmp_path_factory.mktemp("ray"), dashboard=True))
        stack.callback(shutdown, settings)
        deployment = deploy(settings)
        _open.append(stack)
        yield RunningGateway(deployment.url, key, settings)


_open: list[ExitStack] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, None, None]:
    """End gateway and Ray after the last test: the session is long, and they are never idle."""
    yield
    end_ray_before(nextitem)
    if not _open or not uses_gateway(item) or uses_gateway(nextitem):
        return
    items = item.session.items
    # In a process beside others those tests run in a row; the list names tests of all processes.
    is_beside = hasattr(item.config, "workerinput")
    if is_beside or not any(map(uses_gateway, items[items.index(item) + 1 :])):
        _open.pop().close()


def uses_gateway(item: pytest.Item | None) -> bool:
    """Whether a test asks for the gateway."""
    return "gateway" in getattr(item, "fixturenames", ())


def _settings(folder: Path) -> Settings:
    sets = [
        f"paths.state={folder / 'state'}",
        f"paths.outputs={folder / 'outputs'}",
        "serving.port=0",
        "serving.llm.dtype=float32",
        "serving.llm.max_model_len=512",
        "serving.keys.cache_s=0.5",
        "serving.ready_timeout_s=600",
    ]
    return load_config(Settings, sets=sets, conf_dir=CONF).config


def _fill_registry(settings: Settings, folder: Path) -> None:
    from tiny_llama import build_adapter, build_base

    from sunloom.core.model_registry import open_registry

    registry = open_registry(settings)
    base = registry.register("tool-base", "llm", build_base(folder / "base"))
    for seed in (1, 2):
        adapter = build_adapter(folder / "base", folder / f"adapter{seed}", seed)
        registry.register("retail-agent", "adapter", adapter, lineage={"base": base.ref})
    wide = build_adapter(folder / "base", folder / "wide", 3, rank=64)
    registry.register("too-wide", "adapter", wide, lineage={"base": base.ref})
    registry.promote("tool-base", 1)
    registry.promote("retail-agent", 1)
    for number, low in ((1, 0), (2, 1)):
        registry.register("repurchase", "tabular", _tabular(folder / f"tabular{number}", low))
    registry.promote("repurchase", 1)


def _tabular(folder: Path, label_of_recent: int) -> Path:
    """A model that tells recent from old customers; the second version says the opposite."""
    import numpy as np

    from sunloom.tabular.algorithms import load_algorithm
    from sunloom.tabular.columns import Columns
    from sunloom.tabular.model import TabularModel

    days = np.arange(200, dtype=float)
    labels = ((days < 100) == bool(label_of_recent)).astype(float)
    algorithm = load_algorithm("logistic_regression")
    fitted = algorithm.fit(days[:, None], labels, {})
    model = TabularModel(
        "logistic_regression", {}, Columns(("recency_days",)), fitted, ("lapse", "return"), 0.5
    )
    return model.save(folder)


def _fill_store(settings: Settings) -> None:
    import polars as pl

    from sunloom.feature_store.stores.online.open import open_online_store

    frame = pl.DataFrame(
        {
            "id": [1, 2, 3],
            "event_time": [TIME] * 3,
            "recency_days": [5.0, 190.0, None],
            "total_amount": [10.5, 20.0, 30.0],
        }
    )
    open_online_store(settings).write("customer", frame)
