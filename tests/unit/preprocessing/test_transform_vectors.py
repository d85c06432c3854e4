"""Tables of vectors: what a file may look like, and what an odd key is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from sunloom.errors import DataError, UsageError
from sunloom.preprocessing.artifact import save
from sunloom.preprocessing.fit import fit
from tests.unit.preprocessing.tables import assert_same_everywhere

NAMES = ["ada", "bob", "cy"]
VECTORS = np.array([[0.1, 1.0], [0.2, -2.0], [0.3, 3.0]], dtype=np.float32)
ROWS = pl.DataFrame({"who": ["cy", None, "ada", "zed"], "n": range(4)})


def step(table: Path, **options: Any) -> list[dict[str, Any]]:
    plain = {"type": "embedding_table", "columns": ["who"], "table": str(table)}
    return [plain | options]


def tables(folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """The same vectors in each form, with what a step says of it."""
    wide = pl.DataFrame({"who": NAMES, "0": VECTORS[:, 0], "1": VECTORS[:, 1]})
    listed = pl.DataFrame({"key": NAMES, "vector": VECTORS.tolist()}).with_columns(
        pl.col("vector").cast(pl.List(pl.Float32))
    )
    wide.write_parquet(folder / "wide.parquet")
    listed.with_columns(note=pl.lit("x")).write_parquet(folder / "list.parquet")
    listed.with_columns(pl.col("vector").list.to_array(2)).write_parquet(folder / "array.parquet")
    save_file({"v": VECTORS}, folder / "named.safetensors", {"who": json.dumps(NAMES)})
    return {
        "wide": (folder / "wide.parquet", {}),
        "list": (folder / "list.parquet", {"key": "key", "vectors": ["vector"]}),
        "array": (folder / "array.parquet", {}),
        "safetensors": (folder / "named.safetensors", {"key": "who"}),
    }


@pytest.mark.parametrize("form", ["wide", "list", "array", "safetensors"])
@pytest.mark.parametrize("unseen", [None, "zeros"])
def test_a_key_has_its_vector(form: str, unseen: str | None, tmp_path: Path) -> None:
    path, options = tables(tmp_path)[form]
    fitted = fit(step(path, unseen=unseen, **options), ROWS)
    path.unlink()
    prepared = assert_same_everywhere(fitted, ROWS, tmp_path / "a")
    assert prepared.schema == {"who_0": pl.Float64, "who_1": pl.Float64, "n": pl.Int64}
    missing = None if unseen is None else 0.0
    first, second = VECTORS[:, 0].tolist(), VECTORS[:, 1].tolist()
    assert prepared["who_0"].to_list() == [first[2], missing, first[0], missing]
    assert prepared["who_1"].to_list() == [second[2], missing, second[0], missing]


def test_a_long_table_of_whole_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table, keys = rng.normal(size=(5_000, 8)), rng.permutation(9_000)[:5_000]
    save_file({"id": keys, "weight": table}, tmp_path / "t.safetensors")
    frame = pl.DataFrame({"who": rng.integers(0, 9_000, 300)})
    fitted = fit(step(tmp_path / "t.safetensors", key="id", prefix="v"), frame)
    prepared = assert_same_everywhere(fitted, frame, tmp_path / "a")
    by_key = dict(zip(keys.tolist(), table.tolist(), strict=True))
    wanted = [by_key.get(who, [None] * 8) for who in frame["who"]]
    assert [list(row) for row in prepared.rows()] == wanted
    assert prepared.columns == [f"v{i}" for i in range(8)]
    kept = sorted(file.suffix for file in (tmp_path / "a").iterdir())
    assert kept == [".json", ".parquet", ".parquet"]
    # A column with gaps comes as floats from pandas: 7.0 is the key 7, 7.5 is none.
    floats = pl.DataFrame({"who": [float(keys[0]), keys[0] + 0.5, None]})
    found = fitted.apply_frame(floats)["v0"].to_list()
    assert found == [table[0, 0], None, None]
    assert fitted.apply_row({"who": keys[0] + 0.5})["v0"] is None


def test_a_rows_number_is_its_key_where_none_is_named(tmp_path: Path) -> None:
    save_file({"weight": VECTORS}, tmp_path / "t.safetensors")
    frame = pl.DataFrame({"who": [2, -1, 3]})
    prepared = fit(step(tmp_path / "t.safetensors"), frame).apply_frame(frame)
    assert prepared["who_1"].to_list() == [3.0, None, None]
    assert fit(step(tmp_path / "t.safetensors"), frame.clear()).apply_frame(frame).height == 3


def test_several_columns_share_a_table_and_one_may_be_empty(tmp_path: Path) -> None:
    path, options = tables(tmp_path)["wide"]
    frame = ROWS.select("who", whom=pl.lit(None), other=pl.lit(None, dtype=pl.String))
    columns = {"columns": ["who", "whom", "other"]}
    prepared = fit(step(path, **options, **columns), frame).apply_frame(frame)
    assert prepared.columns == ["who_0", "who_1", "whom_0", "whom_1", "other_0", "other_1"]
    assert prepared.null_count().row(0) == (2, 2, 4, 4, 4, 4)
    with pytest.raises(DataError, match="lacks"):
        fit(step(path, columns=["nobody"]), frame)
    with pytest.raises(DataError, match="embedding_table needs text"):
        fit(step(path), frame.with_columns(who=pl.lit(True)))
    with pytest.raises(ValueError, match="prefix goes with one column"):
        fit(step(path, prefix="v", **columns), frame)


def test_equal_tables_make_equal_artifacts(tmp_path: Path) -> None:
    path, options = tables(tmp_path)["wide"]
    marks = [save(fit(step(path, **options), ROWS), tmp_path / name) for name in ("a", "b")]
    assert marks[0] == marks[1]
    pl.read_parquet(path).with_columns(pl.col("1") + 1).write_parquet(path)
    assert save(fit(step(path, **options), ROWS), tmp_path / "c") != marks[0]


@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        ({"k": ["a", "a"], "v": [1.0, 2.0]}, {}, "'a' more than once"),
        ({"k": ["a", None], "v": [1.0, 2.0]}, {}, "a missing one"),
        ({"k": [1.5], "v": [1.0]}, {}, "keys of .* are Float64"),
        ({"k": ["a"], "v": [float("inf")]}, {}, "vector of 'a' .* not all numbers"),
        ({"k": ["a"], "v": ["1"]}, {}, "v is String, not a number"),
        ({"k": ["a", "b"], "v": [[1.0], [1.0, 2.0]]}, {}, "not all of one length"),
        ({"k": ["a"], "v": [[1.0]], "w": [1.0]}, {}, "v holds lists"),
        ({"k": ["a"], "v": [1.0]}, {"key": "id"}, "lacks"),
        ({"k": ["a"]}, {}, "has no vectors"),
        ({"k": [1], "v": [1.0]}, {}, "'who' is String, but the table's keys are Int64"),
    ],
)
def test_a_malformed_table_is_refused(
    table: dict[str, Any], options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    pl.DataFrame(table).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=words):
        fit(step(tmp_path / "t.parquet", **options), ROWS)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no table of vectors"):
        fit(step(tmp_path / "t.parquet"), ROWS)
    (tmp_path / "t.parquet").write_bytes(b"no parquet")
    (tmp_path / "t.safetensors").write_bytes(b"no tensors")
    for name in ("t.parquet", "t.safetensors"):
        with pytest.raises(DataError, match="cannot be read as a table of vectors"):
            fit(step(tmp_path / name), ROWS)
    with pytest.raises(ValueError, match=r"must be a \.parquet or \.safetensors"):
        fit(step(tmp_path / "t.pt"), ROWS)
    save_file({"a": VECTORS, "b": VECTORS[0]}, tmp_path / "t.safetensors")
    for options, words in [
        ({}, "one of its tensors: a, b"),
        ({"vectors": ["b"]}, "b has 1 dimensions"),
        ({"vectors": ["a"], "key": "id"}, "neither a tensor nor a metadata entry 'id'"),
    ]:
        with pytest.raises(DataError, match=words):
            fit(step(tmp_path / "t.safetensors", **options), ROWS)
