"""Parts of a table: what one worker reads, part files into one, precomputed columns."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from sunloom.data.sources.table_files import FileSplit
from sunloom.errors import ArtifactError, ClusterError, DataError
from sunloom.preprocessing.accumulators.values import ColumnValues
from sunloom.preprocessing.cluster.fit_transform import run_task
from sunloom.preprocessing.cluster.lookback import attach_results, precompute, to_block
from sunloom.preprocessing.fit import fit
from sunloom.preprocessing.pipeline import apply_stages
from sunloom.preprocessing.tables import (
    Batch,
    TableSplit,
    file_splits_of,
    open_source,
    split_table,
    whole_table,
)
from sunloom.preprocessing.transform import join_parquet, write_prepared


def table(rows: int = 5_000) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {f"x{i}": rng.normal(size=rows) for i in range(20)}
        | {"row": np.arange(rows), "even": np.arange(rows) % 2 == 0}
        | {"name": [None if i % 9 == 0 else f"name {i % 31}" for i in range(rows)]}
        | {"pair": [[float(i), 1.0] for i in range(rows)]}
    )


def write_parts(folder: Path, frame: pl.DataFrame, parts: int, groups: int) -> list[Path]:
    """The frame in part files of so many row groups each."""
    schema, size = frame.to_arrow().schema, -(-frame.height // (parts * groups))
    paths = [folder / f"{part}.parquet" for part in range(parts)]
    for part, path in enumerate(paths):
        with pq.ParquetWriter(path, schema) as writer:
            for group in range(part * groups, (part + 1) * groups):
                writer.write_table(frame.slice(group * size, size).to_arrow().cast(schema))
    return paths


@pytest.mark.parametrize(("parts", "groups"), [(1, 1), (3, 20)])
def test_part_files_become_one(tmp_path: Path, parts: int, groups: int) -> None:
    frame = table()
    paths = write_parts(tmp_path, frame, parts, groups)
    out = tmp_path / "out.parquet"
    assert join_parquet(paths, out) == frame.height
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
    assert pl.read_parquet(out).equals(frame)
    with pq.ParquetFile(out) as opened:
        assert (opened.metadata.num_rows, opened.num_row_groups) == (5_000, parts * groups)
        assert pl.DataFrame(opened.read_row_group(parts * groups - 1)).equals(
            frame.slice(frame.height - opened.metadata.row_group(parts * groups - 1).num_rows)
        )


def test_what_is_no_parquet_file_is_not_joined(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"PAR1 and what a full disk has left of the rest")
    with pytest.raises(ArtifactError, match="no Parquet file"):
        join_parquet([tmp_path / "a"], tmp_path / "out.parquet")


def test_a_table_in_splits(tmp_path: Path) -> None:
    frame = table(1_000)
    frame.head(400).write_parquet(tmp_path / "a.parquet", row_group_size=150)
    frame.clear().write_parquet(tmp_path / "b.parquet")
    frame.slice(400).write_parquet(tmp_path / "c.parquet", row_group_size=600)
    groups = file_splits_of(open_source(tmp_path))  # type: ignore[arg-type]
    assert [(group.row_groups, group.first_row, group.rows) for group in groups] == [
        ((0,), 0, 150),
        ((1,), 150, 150),
        ((2,), 300, 100),
        ((0,), 400, 600),
    ]
    for splits in (
        split_table(groups, 2, 10_000),
        split_table(groups, 1, 300),
        split_table([], 2, 9),
    ):
        batches = [batch for split in splits for batch in split.batches(["row"])]
        for batch in batches:
            assert batch.rows["row"][0] == batch.first
        assert sum(split.rows for split in splits) == sum(batch.rows.height for batch in batches)
    assert [split.rows for split in split_table(groups, 2, 10_000)] == [400, 600]
    assert [split.first for split in split_table(groups, 1, 300)] == [0, 300, 400]
    assert len(split_table([FileSplit("a", (0,), first_row=0, rows=10, size_bytes=0)], 4, 3)) == 1


def test_a_file_without_row_groups_is_one_group(tmp_path: Path) -> None:
    pl.DataFrame({"a": range(7)}).write_csv(tmp_path / "a.csv")
    (group,) = file_splits_of(open_source(tmp_path / "a.csv"))  # type: ignore[arg-type]
    assert (group.row_groups, group.rows) == ((), 7)
    (batch,) = TableSplit((group,)).batches()
    assert batch.rows["a"].to_list() == list(range(7))


def test_later_files_may_hold_whole_numbers_and_more_columns(tmp_path: Path) -> None:
    folder, out = tmp_path / "rows", tmp_path / "out.parquet"
    folder.mkdir()
    pl.DataFrame({"a": [0.5, 1.5], "s": ["x", "y"]}).write_parquet(folder / "a.parquet")
    pl.DataFrame({"s": ["z"] * 2, "b": [0, 0], "a": [2, 3]}).write_parquet(folder / "b.parquet")
    source = open_source(folder)
    assert whole_table(source).rows["a"].to_list() == [0.5, 1.5, 2.0, 3.0]
    fitted = fit([{"type": "min_max_scaler", "columns": ["a"]}], folder)
    assert write_prepared(fitted, source, out) == 4
    assert pl.read_parquet(out).columns == ["a", "s", "b"]
    assert pl.read_parquet(out)["b"].to_list() == [None, None, 0, 0]
    assert pl.read_parquet(out)["a"].to_list() == pytest.approx([0, 0.4, 0.6, 1])


@pytest.mark.parametrize(
    ("later", "words"),
    [
        ({"a": ["x"], "b": [1]}, "'a' is Float64 in .*a.parquet, but String in .*b.parquet"),
        ({"a": [True], "b": [1]}, "'a' is Float64 in .*a.parquet, but Boolean in .*b.parquet"),
    ],
)
def test_a_later_file_of_another_shape_is_refused(
    tmp_path: Path, later: dict[str, list[Any]], words: str
) -> None:
    pl.DataFrame({"a": [0.5], "b": [1]}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame(later).write_parquet(tmp_path / "b.parquet")
    source = open_source(tmp_path)
    for read in (whole_table, file_splits_of):
        with pytest.raises(DataError, match=words):
            read(source)  # type: ignore[arg-type]
    assert whole_table(source, ["b"]).rows["b"].to_list() == [1, 1]
    with pytest.raises(DataError, match=words):
        fit([{"type": "standard_scaler", "columns": ["a"]}], tmp_path)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_columns_that_some_files_lack_are_null_there(tmp_path: Path, suffix: str) -> None:
    frames = [
        pl.DataFrame({"a": [1, 2], "c": ["x", None]}),
        pl.DataFrame({"b": [7], "a": [0.5]}),
        pl.DataFrame({"z": [True, False, None]}),
    ]
    for number, frame in enumerate(frames):
        file = tmp_path / f"{number}.{suffix}"
        getattr(
            frame, {"parquet": "write_parquet", "csv": "write_csv"}.get(suffix, "write_ndjson")
        )(file)
    expected = pl.concat(frames, how="diagonal_relaxed")
    source = open_source(tmp_path)
    assert whole_table(source).rows.equals(expected)
    assert whole_table(source, ["b", "a"]).rows.equals(expected.select("b", "a"))
    splits = split_table(file_splits_of(source), 9, 10, schema=source.schema)  # type: ignore[arg-type]
    rows = [batch.rows for split in splits for batch in split.batches(["c"])]
    assert pl.concat(rows).equals(expected.select("c"))
    fitted = fit([{"type": "simple_imputer", "strategy": "mean", "columns": ["a", "b"]}], tmp_path)
    assert fitted.report.rows == 6
    assert fitted.apply_frame(expected)["b"].to_list() == [7.0] * 6


def test_a_worker_keeps_to_its_share_of_the_memory() -> None:
    values = ColumnValues("a", most_bytes=8_000, share=0.25)
    values.update(Batch(pl.DataFrame({"a": np.arange(250.0)})))
    assert values.finish().weights is None
    values.update(Batch(pl.DataFrame({"a": np.arange(1.0)}), first=250))
    assert values.finish().weights is not None


@pytest.mark.parametrize(
    ("raised", "expected", "words"),
    [
        (DataError("Column 'a' is text.", param="a"), DataError, "Column 'a' is text"),
        (OSError(28, "No space left on device"), ClusterError, "could not read or write.*No space"),
    ],
)
def test_an_error_in_a_worker_keeps_its_type(
    raised: Exception, expected: type[Exception], words: str
) -> None:
    def fail(*_: Any) -> int:
        raise raised

    split = TableSplit((FileSplit("a", (0,), first_row=0, rows=1, size_bytes=0),))
    with pytest.raises(expected, match=words) as caught:
        run_task(fail, to_block(split, None))
    # Workers send errors as pickles.
    assert type(pickle.loads(pickle.dumps(caught.value))) is expected


def test_precomputed_columns_replace_operations() -> None:
    frame = pl.DataFrame({"x": [1.0, 2.0, 4.0], "at": pl.date_range(
        pl.date(2026, 1, 1), pl.date(2026, 1, 3), eager=True)})  # fmt: skip
    steps = [
        {"type": "lags", "columns": ["x"], "time": "at"},
        {"type": "min_max_scaler", "columns": ["x", "x_lag_1"]},
    ]
    fitted = fit(steps, frame)
    stages = precompute(fitted.stages)
    with pytest.raises(DataError, match="not known"):
        apply_stages(frame, stages)
    made = frame.select(pl.col("x").shift().alias("0:x_lag_1"))
    tail = apply_stages(frame[1:], attach_results(stages, made[1:]))
    assert tail.equals(fitted.apply_frame(frame)[1:])


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_whole_column_of_a_csv_decides_its_type_and_the_artifact_later(tmp_path: Path) -> None:
    scaled = [{"type": "standard_scaler", "columns": ["amount"]}]
    long = _write(tmp_path / "long.csv", "amount\n" + "100\n" * 11_000 + "12.5\n")
    assert fit(scaled, long).schema == {"amount": pl.Float64}
    steps = [
        {"type": "simple_imputer", "columns": ["amount"]},
        {"type": "one_hot_encoder", "columns": ["grade", "zip"]},
    ]
    known = _write(tmp_path / "a.csv", "amount,grade,zip\n10,a,00501\n20,b,501\n12.5,a,00501\n")
    fitted = fit(steps, known)
    later = _write(tmp_path / "later.csv", "amount,grade,zip,ref\n,a,501,007\n0020,7,00501,7\n")
    write_prepared(fitted, open_source(later, fitted.schema), tmp_path / "out.parquet")
    prepared = pl.read_parquet(tmp_path / "out.parquet")
    assert prepared["amount"].to_list() == [pytest.approx(42.5 / 3), 20.0]
    assert prepared.columns == ["amount", "grade_a", "grade_b", "zip_00501", "zip_501", "ref"]
    assert prepared.select(prepared.columns[1:]).rows() == [(1, 0, 0, 1, "007"), (0, 0, 1, 0, "7")]
    wrong = _write(tmp_path / "wrong.csv", "amount,grade,zip\n1,a,1\nmany,a,1\n")
    with pytest.raises(DataError, match="'amount' holds 'many' in row 2, which is not a number"):
        write_prepared(fitted, open_source(wrong, fitted.schema), tmp_path / "out.parquet")


def test_a_folder_of_text_files_has_one_type_a_column(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    _write(folder / "a.csv", "zip,n,gap\n501,1,\n")
    _write(folder / "b.csv", "zip,n,gap\n00501,2.5,3\n")
    source = open_source(folder)
    assert source.schema == {"zip": pl.String, "n": pl.Float64, "gap": pl.Int64}
    rows = [row for batch in source.batches() for row in batch.rows.rows()]
    assert rows == [("501", 1.0, None), ("00501", 2.5, 3)]
    splits = split_table(file_splits_of(source), 1, 10, schema=source.schema)  # type: ignore[arg-type]
    assert [row for split in splits for b in split.batches() for row in b.rows.rows()] == rows


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_times_that_are_text_are_times_for_the_steps_that_take_them(
    tmp_path: Path, ending: str
) -> None:
    texts = pl.DataFrame(
        {
            "who": ["00501"] * 3,
            "at": [f"2026-03-0{day}T12:00:00Z" for day in (1, 2, 3)],
            "x": [1, 2, 4],
        }
    )
    path = tmp_path / f"in.{ending}"
    (texts.write_csv if ending == "csv" else texts.write_ndjson)(path)
    steps = [
        {"type": "lags", "columns": ["x"], "time": "at", "by": ["who"], "periods": [1]},
        {
            "type": "rolling",
            "columns": ["x"],
            "time": "at",
            "windows": ["2d"],
            "aggregations": ["sum"],
        },
        {"type": "calendar", "columns": ["at"], "parts": ["day"]},
    ]
    fitted = fit(steps, path)
    write_prepared(fitted, open_source(path, fitted.schema), tmp_path / "out.parquet")
    prepared = pl.read_parquet(tmp_path / "out.parquet")
    typed = texts.with_columns(pl.col("at").str.to_datetime(time_zone="UTC"))
    assert prepared.equals(fit(steps, typed).apply_frame(typed))
    assert prepared["at_day"].to_list() == [1, 2, 3]
    assert prepared["x_lag_1"].to_list() == [None, 1, 2]


def test_a_later_files_fraction_is_not_cut_off(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pl.DataFrame({"a": [1.0], "carried": [1]}).write_parquet(folder / "a.parquet")
    pl.DataFrame({"a": [2.0], "carried": [3.5]}).write_parquet(folder / "b.parquet")
    fitted = fit([{"type": "standard_scaler", "columns": ["a"]}], folder)
    write_prepared(fitted, open_source(folder), tmp_path / "out.parquet")
    assert pl.read_parquet(tmp_path / "out.parquet")["carried"].to_list() == [1.0, 3.5]
