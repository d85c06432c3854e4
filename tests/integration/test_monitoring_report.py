"""Evidently's report from a sample of a watched window: its page, its numbers, and where it is."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from small_gateway import small_gateway

from sunloom.config import Settings, load_config
from sunloom.config.monitoring import MonitoringRecipe, WatchConfig
from sunloom.core.database import open_database
from sunloom.data.quality.drift import RowSample
from sunloom.data.quality.drift_statistics import column_distance
from sunloom.monitoring.stored_results import drift_over_time
from sunloom.monitoring.watch import run_watch

pytestmark = pytest.mark.integration
START = datetime(2026, 1, 5, tzinfo=UTC)
DAY = timedelta(days=1)


def orders(days: int, seed: int, per_day: int = 900) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    count = days * per_day
    price = random.normal(50, 10, count)
    price[-per_day:] += 15
    return pl.DataFrame(
        {
            "id": random.integers(4_000_000, 5_000_000, count),
            "event_time": [START + DAY * n / per_day for n in range(count)],
            "price": price,
            "country": random.choice(["de", "fr"], count),
            "on": random.random(count) < 0.4,
            "note": pl.Series([None] * count, dtype=pl.Float64),
        }
    ).with_columns(pl.col("event_time").cast(pl.Datetime("us", "UTC")))


def recipe(settings: Settings, folder: Path, seed: int = 0, **watch: Any) -> MonitoringRecipe:
    known = {
        "name": "orders",
        "source": {"path": str(folder / "orders.parquet")},
        "features": ["price", "country", "on"],
        "report": {"rows": 400},
    }
    config = WatchConfig.model_validate(known | watch)
    return MonitoringRecipe(paths=settings.paths, seed=seed, watch=config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    orders(4, seed=1).write_parquet(tmp_path / "orders.parquet", row_group_size=700)
    orders(2, seed=2).head(900).write_parquet(tmp_path / "training.parquet")
    return tmp_path


def drawn(frame: pl.DataFrame, seed: int, rows: int = 400) -> pl.DataFrame:
    sample = RowSample(rows, seed)
    sample.add(frame)
    taken = sample.sampled_rows()
    assert taken is not None
    return taken


def figures(path: Path) -> dict[str, float]:
    metrics = json.loads(path.read_text())["metrics"]
    named = (one for one in metrics if "column" in one["config"])
    return {one["config"]["column"]: one["value"] for one in named}


def test_the_page_and_its_numbers_are_of_the_sample_and_the_route_names_them(
    settings: Settings, folder: Path
) -> None:
    watched = recipe(settings, folder, reference={"type": "trailing", "length": "2d"})
    result = run_watch(watched, START + 4 * DAY)
    html, numbers = Path(result.report), Path(result.numbers)
    assert html == settings.paths.outputs / "monitoring" / "orders" / "2026-01-08T00" / "drift.html"
    page = html.read_text()
    assert "price" in page
    assert 'src="http' not in page
    rows = pl.read_parquet(folder / "orders.parquet")
    assert not any(str(one) in page for one in rows["id"].head(200))

    at = pl.col("event_time")
    current = drawn(rows.filter(at >= START + 3 * DAY), seed=0)
    before = drawn(rows.filter(at >= START + DAY, at < START + 3 * DAY), seed=1)
    ours = {n: column_distance("psi", before[n], current[n]) for n in ("price", "country", "on")}
    assert figures(numbers) == pytest.approx(ours, abs=1e-9)
    assert ours["price"] > 0.5
    plain = json.loads(numbers.read_text())
    assert plain["metrics"][0]["value"] == {"count": 1.0, "share": pytest.approx(1 / 3)}
    assert (plain["current_rows"], plain["current_sampled"]) == (900, 400)
    assert (plain["reference_rows"], plain["reference_sampled"]) == (1800, 400)
    assert (plain["monitor"], plain["window"]) == ("orders", "2026-01-08T00/2026-01-09T00")

    with small_gateway(settings) as client:
        [latest] = client.get("/monitoring/drift").json()["reports"]
        reports = client.get("/monitoring/drift?monitor=orders").json()["reports"]
    # Over HTTP without the server's own folders.
    page = "monitoring/orders/2026-01-08T00/drift.html"
    assert (latest["html"], latest["json"]) == (page, page.removesuffix("html") + "json")
    # Of the windows judged in a run, the newest has a page.
    assert [one["html"] for one in reports] == [page, None, None]
    assert not list(html.parent.glob(".*"))


def test_no_row_is_in_the_database(settings: Settings, folder: Path) -> None:
    rows = pl.read_parquet(folder / "orders.parquet").with_columns(country=pl.lit("Ruritania"))
    rows.write_parquet(folder / "orders.parquet")
    watched = recipe(settings, folder, features=["price"], reference={"type": "trailing"})
    run_watch(watched, START + 4 * DAY)
    database = str(open_database(settings).engine.url.database)
    held = b"".join(one.read_bytes() for one in Path(database).parent.glob("sunloom.db*"))
    assert b"orders" in held
    assert b"Ruritania" not in held
    assert str(rows["price"][-1]).encode() not in held


def test_the_seed_and_the_rows_decide_the_sample(settings: Settings, folder: Path) -> None:
    found = []
    table = {"type": "table", "path": str(folder / "training.parquet")}
    for number, (seed, rows) in enumerate([(0, 400), (0, 400), (5, 400), (0, 5_000)]):
        report = {"rows": rows, "path": str(folder / "pages" / str(number))}
        watched = recipe(settings, folder, seed, name=f"w{number}", reference=table, report=report)
        result = run_watch(watched, START + 4 * DAY)
        assert Path(result.report).is_relative_to(folder / "pages" / str(number))
        found.append(figures(Path(result.numbers))["price"])
    assert found[0] == found[1]
    assert found[0] != found[2]
    whole = pl.read_parquet(folder / "orders.parquet").filter(
        pl.col("event_time") >= START + 3 * DAY
    )
    normal = pl.read_parquet(folder / "training.parquet")
    expected = column_distance("psi", normal["price"], whole["price"])
    assert found[3] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("method", ["jensenshannon", "kl_div"])
def test_the_method_is_the_watchs(settings: Settings, folder: Path, method: str) -> None:
    table = {"type": "table", "path": str(folder / "training.parquet")}
    watched = recipe(settings, folder, reference=table, method=method, report={"rows": 5_000})
    result = run_watch(watched, START + 4 * DAY)
    rows, normal = (pl.read_parquet(folder / f"{n}.parquet") for n in ("orders", "training"))
    current = rows.filter(pl.col("event_time") >= START + 3 * DAY)
    ours = {n: column_distance(method, normal[n], current[n]) for n in ("price", "country", "on")}
    assert figures(Path(result.numbers)) == pytest.approx(ours, rel=1e-9)


def test_the_oldest_pages_are_deleted_and_no_longer_named(settings: Settings, folder: Path) -> None:
    keep = {"rows": 50, "keep": 2}
    watched = recipe(settings, folder, reference={"type": "trailing", "length": "1d"}, report=keep)
    for day in (2, 3, 4):
        run_watch(watched, START + day * DAY)
    home = settings.paths.outputs / "monitoring" / "orders"
    assert sorted(one.name for one in home.iterdir()) == ["2026-01-07T00", "2026-01-08T00"]
    named = [one.html for one in drift_over_time(settings, "orders")]
    assert [one and Path(one).parent.name for one in named] == [
        "2026-01-08T00",
        "2026-01-07T00",
        None,
    ]


def test_features_without_values_are_left_out_and_sources_without_event_time_not_reported(
    settings: Settings, folder: Path
) -> None:
    rows = pl.read_parquet(folder / "orders.parquet")
    gone = rows.with_columns(on=pl.when(pl.col("event_time") < START + 3 * DAY).then(pl.col("on")))
    gone.write_parquet(folder / "orders.parquet")
    trailing = {"type": "trailing", "length": "2d"}
    result = run_watch(recipe(settings, folder, reference=trailing), START + 4 * DAY)
    plain = json.loads(Path(result.numbers).read_text())
    assert plain["left_out"] == ["on"]
    assert set(figures(Path(result.numbers))) == {"price", "country"}

    nothing = recipe(settings, folder, name="n", features=["on"], reference=trailing)
    assert run_watch(nothing, START + 4 * DAY).report is None

    whole = {"path": str(folder / "orders.parquet"), "event_time": None}
    for hour in (0, 1):
        again = recipe(settings, folder, name="whole", source=whole, reference=trailing)
        result = run_watch(again, START + timedelta(hours=hour))
    assert result.windows == 1
    assert result.report is None


def test_nothing_is_reported_without_the_setting(settings: Settings, folder: Path) -> None:
    trailing = {"type": "trailing", "length": "2d"}
    result = run_watch(recipe(settings, folder, reference=trailing, report=None), START + 4 * DAY)
    assert result.report is None
    assert not (settings.paths.outputs / "monitoring").exists()
    quality = recipe(settings, folder, name="q", reference=trailing)
    assert run_watch(quality, START + 4 * DAY, ("quality",)).report is None


def test_a_recipe_file_enables_it(tmp_path: Path) -> None:
    path = tmp_path / "watch.yaml"
    path.write_text(
        "watch:\n  name: orders\n  source: {path: orders.parquet}\n"
        "  report: {rows: 500, keep: 7, path: pages}\n"
    )
    report = load_config(MonitoringRecipe, recipe=path).config.require_watch().report
    assert report is not None
    assert (report.rows, report.keep, report.path) == (500, 7, Path("pages"))
