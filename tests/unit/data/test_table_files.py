"""Files from outside: what cannot be read is damage of its row, and the other rows are read."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sunloom.data.quality.checked_table import table_from_path
from sunloom.data.sources.json_objects import parse_json_object
from sunloom.data.sources.table_files import Table, read_table
from sunloom.errors import DataError
from sunloom.monitoring.source_counts import sample_rows

GOOD = [json.dumps({"id": f"s{n}", "amount": n}).encode() for n in range(4)]
DEEP = b'{"id": ' + b"[" * 20_000
BAD = {
    b'{"id": "a\\ud83d"}': "no Unicode text",
    b'{"id": "caf\xe9"}': "no Unicode text",
    b'{"a\\ud83d": 1}': "no Unicode text",
    DEEP + b"]" * 20_000 + b"}": "nested too deeply",
    DEEP: "nested too deeply",
    b'{"id": ' + b"[" * 200 + b"]" * 200 + b"}": "more than 100 levels",
    b'{"id": ' + b"9" * 5_000 + b"}": "not JSON",
    b"[1]": "not a JSON object",
    b"\xff\xfe\x00": "not JSON",
}


def _read(tmp_path: Path, name: str, content: bytes, **options: Any) -> Table:
    file = tmp_path / name
    file.write_bytes(content)
    return read_table(file, **options)


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize("content", BAD)
def test_one_bad_line_is_damage_of_its_own(tmp_path: Path, content: bytes, as_text: bool) -> None:
    lines = b"\n".join([*GOOD[:2], content, *GOOD[2:]])
    table = _read(tmp_path, "a.jsonl", lines, as_text=as_text)
    assert table.rows["id"].to_list() == ["s0", "s1", "s2", "s3"]
    [damaged] = table.damaged
    assert (damaged.position, BAD[content] in damaged.reason) == (3, True)
    assert table.positions is not None
    assert table.positions.to_list() == [1, 2, 4, 5]


def test_fields_that_nobody_reads_are_no_reason_to_refuse_a_row(tmp_path: Path) -> None:
    line = b'{"id": "s9", "note": "a\\ud83d", "raw": ' + b"[" * 200 + b"]" * 200 + b"}"
    assert _read(tmp_path, "a.jsonl", line, columns=["id"]).rows["id"].to_list() == ["s9"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_byte_order_mark_costs_no_row(tmp_path: Path, end: bytes) -> None:
    part = b"\xef\xbb\xbf" + end.join(GOOD) + end
    table = _read(tmp_path, "a.jsonl", part + part)
    assert table.rows["amount"].to_list() == [0, 1, 2, 3] * 2
    assert not table.damaged
    csv = _read(tmp_path, "a.csv", b"\xef\xbb\xbfid,amount" + end + b"s0,1" + end)
    assert csv.rows.to_dicts() == [{"id": "s0", "amount": 1}]


def test_values_without_a_common_type_are_json_text(tmp_path: Path) -> None:
    lines = b'{"a": [1], "n": 1}\n{"a": {"b": 2}, "n": 2}\n{"a": "x"}\n{"n": 3}'
    rows = _read(tmp_path, "a.jsonl", lines).rows
    assert rows["a"].to_list() == ["[1]", '{"b": 2}', "x", None]
    assert rows["n"].to_list() == [1, 2, None, 3]


def test_one_bad_record_of_a_csv_file_is_set_aside(tmp_path: Path) -> None:
    records = [b'"a\nb",1', b"x,2,3", b"caf\xe9,4", b"y", b'z,"5', b"w,6"]
    table = _read(tmp_path, "a.csv", b"\n".join([b"id,amount", *records]) + b"\n")
    assert table.rows.to_dict(as_series=False) == {
        "id": ["a\nb", "y", "w"],
        "amount": [1, None, 6],
    }
    assert table.positions is not None
    assert table.positions.to_list() == [2, 6, 8]
    assert [(row.position, row.reason) for row in table.damaged] == [
        (4, "3 fields, but the header has 2"),
        (5, "not UTF-8"),
        (7, "not CSV: unexpected end of data"),
    ]
    with pytest.raises(DataError, match="cannot be read as csv"):
        _read(tmp_path, "b.csv", b"\n")


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(), parts, max_size=3),
)
_LINES = st.one_of(
    st.binary(max_size=60),
    st.builds(lambda row: json.dumps(row).encode(), st.dictionaries(st.text(), _VALUES)),
    st.builds(
        lambda row: json.dumps(row, ensure_ascii=False).encode(errors="surrogatepass"),
        st.dictionaries(st.sampled_from(["id", "amount"]), _VALUES),
    ),
).map(lambda line: line.replace(b"\n", b" "))


@settings(max_examples=25, deadline=None)
@given(st.lists(_LINES, max_size=4))
def test_whatever_the_lines_are_each_is_a_row_or_damage(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    file.write_bytes(b"\n".join([*GOOD, *lines]))
    blank = sum(not line.removeprefix(b"\xef\xbb\xbf").strip() for line in lines)
    for as_text in (True, False):
        table = read_table(file, as_text=as_text)
        assert table.rows.height + len(table.damaged) == len(GOOD) + len(lines) - blank
        assert table.rows.head(4)["id"].cast(pl.String).to_list() == ["s0", "s1", "s2", "s3"]
        pl.DataFrame([vars(row) for row in table.damaged]).write_ndjson()


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=200))
def test_whatever_follows_in_a_csv_file_its_first_row_is_read(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzz.csv"
    file.write_bytes(b"id,amount\ns0,1\n" + content)
    assert read_table(file, as_text=True).rows["id"][0] == "s0"


@settings(max_examples=50, deadline=None)
@given(st.binary())
def test_an_object_is_parsed_or_refused_with_a_reason(content: bytes) -> None:
    with suppress(ValueError):
        assert isinstance(parse_json_object(content), dict)


def test_a_file_without_lines_names_no_columns_and_lacks_none(tmp_path: Path) -> None:
    empty = _read(tmp_path, "none.jsonl", b"\n", columns=["id", "amount"], as_text=True).rows
    assert dict(empty.schema) == {"id": pl.String(), "amount": pl.String()}
    assert empty.is_empty()
    with pytest.raises(DataError, match="lacks the column id"):
        _read(tmp_path, "other.jsonl", b'{"amount": 1}\n', columns=["id"])


def test_a_folder_has_the_columns_of_all_its_files_in_their_widest_types(tmp_path: Path) -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    pl.DataFrame({"id": [1], "n": [1], "at": [at]}).write_parquet(tmp_path / "1.parquet")
    wide = pl.DataFrame({"n": [2.5], "new": ["x"], "id": [2], "at": [at]})
    wide.with_columns(pl.col("at").dt.cast_time_unit("ns")).write_parquet(tmp_path / "2.parquet")
    pl.DataFrame({"id": [3], "n": [None]}).write_parquet(tmp_path / "3.parquet")
    rows = read_table(tmp_path).rows
    assert rows.to_dict(as_series=False) == {
        "id": [1, 2, 3],
        "n": [1.0, 2.5, None],
        "at": [at, at, None],
        "new": [None, "x", None],
    }
    assert rows.schema["at"] == pl.Datetime("ns", "UTC")
    assert read_table(tmp_path, ["new", "id"]).rows.rows() == [(None, 1), ("x", 2), (None, 3)]
    with pytest.raises(DataError, match="lacks the column neu"):
        read_table(tmp_path, ["neu"])
    pl.DataFrame({"id": [2**53 + 1], "n": [2**53 + 1]}).write_parquet(tmp_path / "4.parquet")
    with pytest.raises(DataError, match=r"4\.parquet: a value of 'n' \(Int64\)"):
        read_table(tmp_path)
    pl.DataFrame({"id": ["5"]}).write_parquet(tmp_path / "5.parquet")
    with pytest.raises(DataError, match=r"'id' is Int64 in .*1\.parquet, but String in .*5\.parq"):
        read_table(tmp_path)


def test_a_column_of_text_is_text_in_every_file_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("zip,n,empty\n00501,1,\n")
    (tmp_path / "2.csv").write_text("zip,n,empty,new\nK1A,2.5,7,a\n")
    (tmp_path / "3.csv").write_text("zip,n\n")
    (tmp_path / "4.jsonl").write_text('{"zip": "9", "new": "b"}\n')
    assert read_table(tmp_path).rows.to_dict(as_series=False) == {
        "zip": ["00501", "K1A", "9"],
        "n": [1.0, 2.5, None],
        "empty": [None, 7, None],
        "new": [None, "a", "b"],
    }


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_checks_and_watches_read_such_folders_alike(tmp_path: Path, ending: str) -> None:
    parts = [{"id": [1], "n": [1]}, {"n": [2.5], "new": ["x"], "id": [2]}, {"id": [3]}]
    for number, part in enumerate(parts):
        frame, file = pl.DataFrame(part), tmp_path / f"{number}.{ending}"
        (frame.write_parquet if ending == "parquet" else frame.write_csv)(file)
    expected = {"id": [1, 2, 3], "n": [1.0, 2.5, None], "new": [None, "x", None]}
    table = table_from_path(tmp_path)
    checked = pl.concat(batch.typed.select(list(table.schema)) for batch in table.batches())
    assert checked.to_dict(as_series=False) == expected
    assert sample_rows(tmp_path, None).to_dict(as_series=False) == expected
