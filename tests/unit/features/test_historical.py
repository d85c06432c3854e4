"""Historical features from files to a file."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sunloom.errors import DataError, DataQualityError, NotFoundError, UsageError
from sunloom.features.historical.retrieve import HistoricalJob, HistoricalSummary

CLASSES = str(Path(__file__).with_name("chalk_classes.py"))
DAY = timedelta(days=1)
START = datetime(2026, 3, 1, tzinfo=UTC)
SALES = pl.DataFrame(
    {
        "id": [1, 2, 3],
        "shop_id": ["a", "a", "b"],
        "at": [START, START + DAY, START + DAY],
        "price": [1.5, 2.5, None],
        "units": [1, 2, 3],
        "paid": [True, False, None],
        "label": ["x", "y", "007"],
    }
)
ENTITIES = pl.DataFrame(
    {
        "target": [1, 0, 1, 0],
        "id": ["a", "a", "nobody", "b"],
        "event_time": [START + DAY, START, START, START + 2 * DAY],
    }
)


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    made = {"sales": tmp_path / "sales.parquet", "entities": tmp_path / "entities.parquet"}
    SALES.write_parquet(made["sales"])
    ENTITIES.write_parquet(made["entities"])
    return {**made, "out": tmp_path / "deep" / "out.parquet"}


def _run(paths: dict[str, Path], max_bad_share: float = 0.01, **changes: Any) -> HistoricalSummary:
    job = {
        "definitions": CLASSES,
        "feature_set": "sl_shop",
        "sources": {"sl_sale": paths["sales"]},
        "entities": paths["entities"],
    }
    return HistoricalJob.prepare(**(job | changes)).run(paths["out"], max_bad_share)


def test_rows_keep_order_number_and_columns(paths: dict[str, Path]) -> None:
    summary = _run(paths)
    out = pl.read_parquet(paths["out"])
    assert out.columns[:3] == ["target", "id", "event_time"]
    assert out.select("target", "id", "event_time").equals(ENTITIES)
    assert out["sales__86400__"].to_list() == [1, 1, 0, 0]
    assert out["all_sales"].to_list() == [2, 1, 0, 1]
    assert out["revenue__604800__"].to_list() == [4.0, 1.5, 0.0, 0.0]
    assert summary.rows == 4
    assert summary.quarantined == {}


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_text_formats_give_the_same(paths: dict[str, Path], tmp_path: Path, ending: str) -> None:
    _run(paths)
    expected = pl.read_parquet(paths["out"])
    text = SALES.with_columns(pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6f%:z"))
    file = tmp_path / f"sales.{ending}"
    (text.write_csv if ending == "csv" else text.write_ndjson)(file)
    _run(paths, sources={"sl_sale": file})
    assert pl.read_parquet(paths["out"]).equals(expected)
    assert expected["last_label"].to_list() == ["y", "x", None, "007"]


def test_a_folder_of_files_is_one_source(paths: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for index, part in enumerate(SALES.iter_slices(1)):
        part.write_parquet(folder / f"{index}.parquet")
    _run(paths, sources={"sl_sale": folder})
    assert pl.read_parquet(paths["out"])["all_sales"].to_list() == [2, 1, 0, 1]


def test_damaged_rows_are_set_aside_with_reason_and_position(
    paths: dict[str, Path], tmp_path: Path
) -> None:
    good = [{**row, "at": row["at"].isoformat()} for row in SALES.to_dicts()] * 100
    lines = [json.dumps(row) for row in good]
    lines[10] = "{broken"
    lines[20] = json.dumps({**good[20], "units": "many"})
    lines[30] = json.dumps({**good[30], "at": "2026-03-01 00:00:00"})
    file = tmp_path / "sales.jsonl"
    file.write_text("\n".join(lines))
    summary = _run(paths, sources={"sl_sale": file}, max_bad_share=0.02)
    assert sum(summary.quarantined.values()) == 3
    aside = pl.read_ndjson(paths["out"].with_name("out.parquet.quarantine.jsonl"))
    assert sorted(aside["position"]) == [11, 21, 31]
    assert any("units is not a whole number" in reason for reason in aside["reason"])
    assert any("datetime with a time zone" in reason for reason in aside["reason"])
    paths["out"].unlink()
    with pytest.raises(DataQualityError, match="3 of 300 source rows cannot be read"):
        _run(paths, sources={"sl_sale": file}, max_bad_share=0.001)
    assert not paths["out"].exists()


def test_naive_datetimes_are_refused(paths: dict[str, Path], tmp_path: Path) -> None:
    naive = tmp_path / "naive.parquet"
    SALES.with_columns(pl.col("at").dt.replace_time_zone(None)).write_parquet(naive)
    with pytest.raises(DataError, match="without a time zone"):
        _run(paths, sources={"sl_sale": naive})
    ENTITIES.with_columns(pl.col("event_time").dt.replace_time_zone(None)).write_parquet(naive)
    with pytest.raises(DataError, match="not datetimes with a time zone"):
        _run(paths, entities=naive)


def test_another_time_zone_is_the_same_time(paths: dict[str, Path], tmp_path: Path) -> None:
    _run(paths)
    expected = pl.read_parquet(paths["out"])
    there = tmp_path / "there.parquet"
    SALES.with_columns(
        pl.col("at").dt.convert_time_zone("America/New_York").dt.cast_time_unit("ns")
    ).write_parquet(there)
    _run(paths, sources={"sl_sale": there})
    assert pl.read_parquet(paths["out"]).equals(expected)


def test_no_row_of_the_entities_is_lost_in_silence(paths: dict[str, Path], tmp_path: Path) -> None:
    rows = ENTITIES.with_columns(pl.col("event_time").dt.strftime("%+")).write_ndjson()
    file = tmp_path / "entities.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + rows.encode() + b'{"id": "a\\ud83d"}\n')
    with pytest.raises(DataQualityError, match="1 of 5 entities' rows cannot be read"):
        _run(paths, entities=file)
    summary = _run(paths, entities=file, max_bad_share=0.2)
    assert (summary.rows, sum(summary.quarantined.values())) == (4, 1)
    quarantine = paths["out"].with_name("out.parquet.quarantine.jsonl")
    assert json.loads(quarantine.read_text())["position"] == 5


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_files_of_a_folder_may_have_other_columns(
    paths: dict[str, Path], tmp_path: Path, ending: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    text = pl.col("at").dt.strftime("%Y-%m-%dT%H:%M:%S%:z")
    sales = SALES if ending == "parquet" else SALES.with_columns(text)
    # An older file without the price, and a newer one with another type and a further column.
    parts = [sales.drop("price"), sales.with_columns(pl.col("units") * 1.0, more=pl.lit(1))]
    for number, part in enumerate(parts):
        write = {"parquet": part.write_parquet, "csv": part.write_csv, "jsonl": part.write_ndjson}
        write[ending](folder / f"{number}.{ending}")
    entities = tmp_path / "rows"
    entities.mkdir()
    ENTITIES.drop("target").write_parquet(entities / "1.parquet")
    ENTITIES.write_parquet(entities / "2.parquet")
    _run(paths, sources={"sl_sale": folder}, entities=entities)
    out = pl.read_parquet(paths["out"])
    assert out["target"].to_list() == [None, None, None, None, 1, 0, 1, 0]
    assert out["all_sales"].to_list() == [4, 2, 0, 2] * 2
    assert out["revenue__604800__"].to_list() == [4.0, 1.5, 0.0, 0.0] * 2
    _run(paths, sources={"sl_sale": folder}, entities=entities, engine="polars")
    scan = HistoricalJob.prepare(CLASSES, "sl_shop", {"sl_sale": folder}, entities).scan
    split_rows = pl.concat(split.read(scan.plan).rows for split in scan.splits)
    assert split_rows.equals(scan.read()["sl_sale"].rows)


def test_what_is_missing_is_named(paths: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no file .*gone\.parquet") as usage:
        _run(paths, sources={"sl_sale": tmp_path / "gone.parquet"})
    assert "sales.parquet" in usage.value.hint
    other = tmp_path / "other.parquet"
    SALES.rename({"price": "prize"}).write_parquet(other)
    with pytest.raises(DataError, match="lacks the column price") as data:
        _run(paths, sources={"sl_sale": other})
    assert "'price' → 'prize'" in data.value.hint
    with pytest.raises(UsageError, match="needs rows of 'sl_sale'"):
        _run(paths, sources={})
    with pytest.raises(NotFoundError, match="'sl_sail' belongs to no class"):
        _run(paths, sources={"sl_sail": paths["sales"], "sl_sale": paths["sales"]})
    with pytest.raises(DataError, match="lacks the column event_time"):
        _run(paths, entities=paths["sales"])


def test_a_wrong_column_type_names_column_and_feature(
    paths: dict[str, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other.parquet"
    SALES.with_columns(pl.lit(True).alias("units")).write_parquet(other)
    with pytest.raises(DataError, match=r"column 'units' is Boolean.*sl_sale\.units is int64"):
        _run(paths, sources={"sl_sale": other})


def test_a_carried_column_may_not_bear_a_features_name(
    paths: dict[str, Path], tmp_path: Path
) -> None:
    clash = tmp_path / "clash.parquet"
    ENTITIES.with_columns(pl.lit(1).alias("all_sales")).write_parquet(clash)
    with pytest.raises(DataError, match="'all_sales', which is also a feature"):
        _run(paths, entities=clash)


def test_rows_may_bring_the_values_of_a_class_without_a_source(
    paths: dict[str, Path], tmp_path: Path
) -> None:
    given = tmp_path / "given.parquet"
    ENTITIES.with_columns(pl.lit("Ulm").alias("city")).write_parquet(given)
    _run(paths, entities=given)
    out = pl.read_parquet(paths["out"])
    assert out["city"].to_list() == ["Ulm"] * 4
    assert out["opened"].to_list() == [None] * 4


def test_no_rows_in_no_rows_out(paths: dict[str, Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty.parquet"
    ENTITIES.clear().write_parquet(empty)
    _run(paths, entities=empty)
    assert pl.read_parquet(paths["out"]).height == 0
    SALES.clear().write_parquet(paths["sales"])
    _run(paths)
    assert pl.read_parquet(paths["out"])["all_sales"].to_list() == [0, 0, 0, 0]


def test_a_csv_of_entities_is_carried_as_text_and_its_key_has_the_plans_type(
    paths: dict[str, Path], tmp_path: Path
) -> None:
    SALES.with_columns(shop_id=pl.lit("00501")).write_parquet(paths["sales"])
    entities = tmp_path / "entities.csv"
    entities.write_text(
        "id,event_time,zip,card,flag,ref,part\n"
        "00501,2026-03-03T00:00:00Z,00501,0000000000000042,false,007,12.50\n"
        "501,2026-03-03T00:00:00Z,,,,,\n"
    )
    _run(paths, entities=entities)
    out = pl.read_parquet(paths["out"])
    assert out["id"].to_list() == ["00501", "501"]
    assert out["event_time"].to_list() == [START + 2 * DAY] * 2
    carried = out.select("zip", "card", "flag", "ref", "part").rows()
    assert carried == [("00501", "0000000000000042", "false", "007", "12.50"), (None,) * 5]
    assert out["all_sales"].to_list() == [3, 0]


def test_json_knows_the_types_of_what_entities_carry(
    paths: dict[str, Path], tmp_path: Path
) -> None:
    entities = tmp_path / "entities.jsonl"
    row = {"id": "a", "event_time": "2026-03-03T00:00:00Z", "zip": "00501", "n": 42, "ok": False}
    entities.write_text(json.dumps(row))
    _run(paths, entities=entities)
    out = pl.read_parquet(paths["out"])
    assert out.select("id", "zip", "n", "ok").rows() == [("a", "00501", 42, False)]
    entities.write_text("{broken")
    with pytest.raises(DataError, match="line 1: not JSON"):
        _run(paths, entities=entities)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_everyday_types_are_taken(paths: dict[str, Path], tmp_path: Path, ending: str) -> None:
    _run(paths)
    expected = pl.read_parquet(paths["out"])
    source, entities = tmp_path / f"sales.{ending}", paths["entities"]
    if ending == "csv":
        source.write_text(
            "id;shop_id;at;price;units;paid;label\n"
            "1;a;2026-03-01T00:00:00Z;1,5;1;TRUE;x\n"
            "2;a;2026-03-02T00:00:00Z;2,5;2;FALSE;y\n"
            "3;b;2026-03-02T00:00:00Z;;3;;007\n"
        )
    else:
        SALES.with_columns(
            pl.col("id", "units").cast(pl.Decimal(38, 0)),
            pl.col("shop_id").cast(pl.Categorical),
            pl.col("at").cast(pl.Datetime("ns", "UTC")),
            pl.col("label").cast(pl.Binary),
        ).write_parquet(source)
        entities = tmp_path / "categories.parquet"
        ENTITIES.with_columns(pl.col("id").cast(pl.Categorical)).write_parquet(entities)
    _run(paths, sources={"sl_sale": source}, entities=entities)
    out = pl.read_parquet(paths["out"])
    assert out.select(expected.columns[3:]).equals(expected.select(expected.columns[3:]))


def test_what_an_everyday_type_cannot_keep_is_quarantined(
    paths: dict[str, Path], tmp_path: Path
) -> None:
    shares = {"max_bad_share": 0.9}
    late = SALES.with_columns(pl.col("at").cast(pl.Datetime("ns", "UTC")))
    late = late.with_columns(
        pl.when(pl.col("id") == 1).then(pl.col("at").dt.offset_by("600ns")).otherwise(pl.col("at")),
        label=pl.Series([b"x", b"y", b"\xff"]),
    )
    late.write_parquet(paths["sales"])
    # The event is 600 ns after the entity's own time: it must not be seen.
    ENTITIES.with_columns(event_time=pl.lit(START)).write_parquet(paths["entities"])
    with pytest.raises(DataQualityError, match="at is finer than a microsecond: round it up"):
        _run(paths)
    summary = _run(paths, **shares)
    assert summary.quarantined["at is finer than a microsecond: round it up"] == 1
    assert pl.read_parquet(paths["out"])["all_sales"].to_list() == [0, 0, 0, 0]
    text = tmp_path / "late.csv"
    text.write_text(
        "id,shop_id,at,price,units,paid,label\n1,a,2026-03-01T00:00:00.0000006Z,1,1,,x\n"
    )
    with pytest.raises(DataQualityError, match="finer than a microsecond"):
        _run(paths, sources={"sl_sale": text})
