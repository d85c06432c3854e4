"""Every key of a graph's recipe does what it says; what it cannot be is refused with a hint."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sunloom.config.loading.load import load_config
from sunloom.config.preprocessing.graph import GraphRecipe
from sunloom.errors import ArtifactError, ConfigError, ConflictError, DataError, UsageError
from sunloom.feature_store.materialization.graph_features import materialize_graph
from sunloom.feature_store.stores.online.open import open_online_store

START = datetime(2026, 11, 1, tzinfo=UTC)
Run = Callable[..., pl.DataFrame]


@pytest.fixture
def payments(tmp_path: Path) -> Path:
    """a pays b twice and c, b pays c, d pays itself, e pays a on the last day."""
    rows = [("a", "b", 2.0), ("a", "b", 1.0), ("a", "c", 1.0), ("b", "c", 4.0), ("d", "d", 1.0)]
    rows.append(("e", "a", 1.0))
    frame = pl.DataFrame(rows, schema=["payer", "payee", "amount"], orient="row")
    times = [START + timedelta(days=day) for day in range(6)]
    path = tmp_path / "payments.parquet"
    frame.with_columns(pl.Series("paid_at", times)).write_parquet(path)
    return path


@pytest.fixture
def recipe(tmp_path: Path, payments: Path, project_root: Path) -> Callable[..., GraphRecipe]:
    """The recipe of these payments with further keys."""

    def build(**keys: Any) -> GraphRecipe:
        graph: dict[str, Any] = {
            "edges": str(payments),
            "source": "payer",
            "target": "payee",
            "features": ["degree"],
            "out": str(tmp_path / "out.parquet"),
        }
        given = {key: value for key, value in (graph | keys).items() if value is not None}
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps({"graph": given}))
        sets = [f"paths.state={tmp_path / 'state'}"]
        return load_config(
            GraphRecipe, recipe=path, sets=sets, conf_dir=project_root / "conf"
        ).config

    return build


@pytest.fixture
def run(recipe: Callable[..., GraphRecipe]) -> Run:
    """The rows that the recipe writes."""

    def run(**keys: Any) -> pl.DataFrame:
        return pl.read_parquet(materialize_graph(recipe(**keys)).out)

    return run


def column(frame: pl.DataFrame, name: str, key: str = "id") -> dict[str, Any]:
    return dict(frame.select(key, name).rows())


def test_one_row_a_node(recipe: Callable[..., GraphRecipe], run: Run) -> None:
    found = run()
    assert found.rows() == [("a", 3), ("b", 2), ("c", 2), ("d", 2), ("e", 1)]
    assert found.columns == ["id", "degree"]
    result = materialize_graph(recipe())
    assert (result.nodes, result.edges) == (5, 6)
    assert (result.repeated_edges, result.self_loops, result.features) == (1, 1, ["degree"])


def test_source_and_target(run: Run) -> None:
    degrees = ["in_degree", "out_degree"]
    found = run(directed=True, features=degrees)
    turned = run(directed=True, features=degrees, source="payee", target="payer")
    assert column(found, "in_degree") == column(turned, "out_degree")
    assert column(found, "in_degree")["c"] == 2 != column(turned, "in_degree")["c"]


def test_directed(recipe: Callable[..., GraphRecipe], run: Run, tmp_path: Path) -> None:
    features = ["degree", "pagerank"]
    one, two = run(features=features), run(features=features, directed=True)
    assert column(one, "pagerank")["e"] > column(two, "pagerank")["e"]
    pl.DataFrame({"payer": [1, 2], "payee": [2, 1]}).write_parquet(tmp_path / "back.parquet")
    back = {"edges": str(tmp_path / "back.parquet")}
    assert materialize_graph(recipe(**back)).repeated_edges == 1
    assert materialize_graph(recipe(**back, directed=True)).repeated_edges == 0


def test_weight(run: Run) -> None:
    features = ["degree", "strength", "pagerank"]
    plain = run(features=features, directed=True)
    weighed = run(features=features, directed=True, weight="amount")
    assert column(plain, "strength")["a"] == 4.0
    assert column(weighed, "strength")["a"] == 5.0
    assert column(plain, "degree") == column(weighed, "degree")
    assert column(weighed, "pagerank")["b"] > column(plain, "pagerank")["b"]


def test_embedding(run: Run) -> None:
    found = run(embedding={"dimensions": 3})
    assert found.columns == ["id", "degree", "embedding_0", "embedding_1", "embedding_2"]
    assert run(embedding={}).width == 2 + 16
    assert run(features=[], embedding={"dimensions": 1}).columns == ["id", "embedding_0"]
    weighed = run(embedding={"dimensions": 3}, weight="amount")
    assert column(weighed, "embedding_0") != column(found, "embedding_0")


def test_key(run: Run) -> None:
    assert run(key="account").columns == ["account", "degree"]


def test_pagerank_keys(run: Run) -> None:
    ranks = {"features": ["pagerank"], "directed": True}
    usual = column(run(**ranks), "pagerank")
    assert sum(usual.values()) == pytest.approx(1.0)
    flat = column(run(**ranks, pagerank={"damping": 0.0}), "pagerank")
    assert list(flat.values()) == pytest.approx([0.2] * 5)
    loose = column(run(**ranks, pagerank={"tol": 0.9}), "pagerank")
    assert loose["c"] != pytest.approx(usual["c"], abs=1e-3)
    with pytest.raises(DataError, match=r"PageRank still changes.*after 2 steps") as error:
        run(**ranks, pagerank={"max_iter": 2})
    assert "max_iter or tol" in error.value.hint


def test_as_of_sees_no_later_edge(run: Run) -> None:
    moment = START + timedelta(days=2)
    found = run(time="paid_at", as_of=moment.isoformat(), weight="amount", features=["strength"])
    assert found.rows() == [("a", moment, 4.0), ("b", moment, 3.0), ("c", moment, 1.0)]
    assert found.columns == ["id", "event_time", "strength"]
    last = run(time="paid_at", as_of=(START + timedelta(days=9)).isoformat(), features=["strength"])
    assert last["id"].to_list() == list("abcde")
    assert found["event_time"].dtype == pl.Datetime("us", "UTC")


def test_as_of_is_what_would_have_been_computed_then(
    run: Run, payments: Path, tmp_path: Path
) -> None:
    moment = START + timedelta(days=3, hours=1)
    every = {
        "directed": True,
        "weight": "amount",
        "features": ["degree", "component", "component_size", "pagerank", "clustering"],
        "embedding": {"dimensions": 2},
    }
    seen = run(**every, time="paid_at", as_of=moment.isoformat())
    early = tmp_path / "early.parquet"
    pl.read_parquet(payments).filter(pl.col("paid_at") <= moment).write_parquet(early)
    assert_frame_equal(seen.drop("event_time"), run(**every, edges=str(early)))


def test_edges_from_several_files_of_several_kinds(
    run: Run, payments: Path, tmp_path: Path
) -> None:
    rows = pl.read_parquet(payments)
    rows.head(2).write_csv(tmp_path / "one.csv")
    rows.slice(2, 2).write_ndjson(tmp_path / "two.jsonl")
    (tmp_path / "more").mkdir()
    rows.slice(4, 1).write_parquet(tmp_path / "more" / "a.parquet")
    rows.slice(5).write_parquet(tmp_path / "more" / "b.parquet")
    edges = [str(tmp_path / name) for name in ("one.csv", "two.jsonl", "more")]
    assert_frame_equal(run(edges=edges, weight="amount"), run(weight="amount"))
    as_text = {"edges": edges[:1], "time": "paid_at", "as_of": START.isoformat()}
    assert run(**as_text)["degree"].to_list() == [1, 1]


def test_ends_that_are_levels(run: Run, payments: Path, tmp_path: Path) -> None:
    levels = pl.col("payer", "payee").cast(pl.Categorical)
    pl.read_parquet(payments).with_columns(levels).write_parquet(tmp_path / "levels.parquet")
    assert_frame_equal(run(edges=str(tmp_path / "levels.parquet")), run())


@pytest.fixture
def accounts(tmp_path: Path) -> Path:
    """Two ages of b, one of each other; z pays nobody."""
    frame = pl.DataFrame(
        {
            "account": ["b", "a", "c", "z", "b"],
            "age": [10.0, 20.0, 30.0, 40.0, 50.0],
            "vip": [True, False, True, False, False],
            "since": [START + timedelta(days=day) for day in (0, 0, 0, 0, 4)],
        }
    )
    path = tmp_path / "accounts.parquet"
    frame.write_parquet(path)
    return path


def test_nodes(run: Run, accounts: Path, tmp_path: Path) -> None:
    table = tmp_path / "once.parquet"
    pl.read_parquet(accounts).head(4).drop("since").write_parquet(table)
    nodes: dict[str, Any] = {"table": str(table), "key": "account"}
    found = run(directed=True, nodes=nodes)
    assert found.columns[2:] == [
        f"neighbour_{a}_{c}" for c in ("age", "vip") for a in ("mean", "sum")
    ]
    assert column(found, "neighbour_mean_age") == {
        "a": 20.0,
        "b": 30.0,
        "c": None,
        "d": None,
        "e": 20.0,
        "z": None,
    }
    assert column(found, "degree")["z"] == 0
    chosen = nodes | {"columns": ["age"], "aggregations": ["max", "count"], "direction": "in"}
    found = run(directed=True, nodes=chosen)
    assert found.columns == ["id", "degree", "neighbour_max_age", "neighbour_count_age"]
    assert column(found, "neighbour_max_age")["c"] == 20.0
    assert column(found, "neighbour_count_age")["a"] == 0
    renamed = tmp_path / "renamed.parquet"
    pl.read_parquet(table).rename({"account": "id"}).write_parquet(renamed)
    assert "neighbour_sum_age" in run(nodes={"table": str(renamed)}).columns


def test_nodes_as_of(run: Run, accounts: Path) -> None:
    nodes = {"table": str(accounts), "key": "account", "columns": ["age"], "time": "since"}
    keys: dict[str, Any] = {"directed": True, "nodes": nodes, "time": "paid_at"}
    early = run(**keys, as_of=(START + timedelta(days=3)).isoformat())
    assert column(early, "neighbour_mean_age")["a"] == 20.0
    late = run(**keys, as_of=(START + timedelta(days=4)).isoformat())
    assert column(late, "neighbour_mean_age")["a"] == 40.0
    untimed = {key: value for key, value in nodes.items() if key != "time"}
    with pytest.raises(DataError, match="name a node twice"):
        run(**keys | {"nodes": untimed}, as_of=START.isoformat())


def test_feature_set(recipe: Callable[..., GraphRecipe], tmp_path: Path) -> None:
    moment = START + timedelta(days=9)
    keys: dict[str, Any] = {"time": "paid_at", "embedding": {"dimensions": 1}, "key": "account"}
    wanted = recipe(**keys, as_of=moment.isoformat(), feature_set="accounts", out=None)
    result = materialize_graph(wanted)
    assert (result.feature_set, result.records, result.out) == ("accounts", 5, None)
    store = open_online_store(wanted)
    schema = store.schema("accounts")
    assert (schema.key, schema.key_dtype) == ("account", "string")
    row, missing = store.read("accounts", ["a", "zz"])
    assert missing is None
    assert row is not None
    assert (row["degree"], set(row)) == (3, {"degree", "embedding_0"})
    earlier = recipe(**keys, as_of=START.isoformat(), feature_set="accounts")
    assert materialize_graph(earlier).records == 0, "a record of a later moment stays"
    store.apply([("plan", b"shops", b"{}")])
    with pytest.raises(ConflictError, match="'shops' is made from definitions"):
        materialize_graph(recipe(feature_set="shops", out=str(tmp_path / "never.parquet")))
    assert not (tmp_path / "never.parquet").exists()


def test_without_a_time_the_records_are_of_now(recipe: Callable[..., GraphRecipe]) -> None:
    wanted = recipe(feature_set="now")
    before = datetime.now(UTC)
    materialize_graph(wanted)
    (time,) = open_online_store(wanted).feature_times("now", ["a"])
    assert time is not None
    assert before <= datetime.fromtimestamp(time / 1e6, UTC) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"features": ["in_degree"]}, "in_degree needs directed: true"),
        ({"features": ["embedding"]}, "write `embedding: {dimensions: 16}` beside it"),
        ({"features": ["neighbours"]}, "write `nodes: {table: FILE}` beside it"),
        ({"features": ["centrality"]}, "graph.features"),
        ({"features": []}, "nothing is wanted"),
        ({"time": "paid_at"}, "time needs as_of"),
        ({"as_of": "2026-11-01T00:00:00Z"}, "as_of needs time"),
        ({"as_of": "2026-11-01T00:00:00", "time": "paid_at"}, "timezone"),
        ({"nodes": {"table": "x.csv", "time": "t"}}, "nodes.time needs as_of"),
        ({"nodes": {"table": "x.csv", "direction": "in"}}, "direction: in needs directed"),
        ({"pagerank": {"damping": 0.5}}, "features does not name it"),
        ({"pagerank": {"damping": 1.0}, "features": ["pagerank"]}, "damping"),
        ({"key": "degree"}, "'degree' is the name of another column"),
        ({"embedding": {"dimensions": 0}}, "dimensions"),
        ({"dimensions": 3}, "dimensions"),
        ({"edges": None}, "graph.edges is missing"),
        ({"out": None}, "Neither graph.out nor graph.feature_set"),
    ],
)
def test_an_invalid_recipe_is_refused(
    recipe: Callable[..., GraphRecipe], keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as error:
        materialize_graph(recipe(**keys))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("rows", "keys", "words"),
    [
        ({"payer": [1], "paye": [2]}, {}, r"lacks the column payee[\s\S]*Meant: 'payee' → 'paye'"),
        ({"payer": [1, None], "payee": [2, 3]}, {}, "'payer' is missing in 1 of 2 rows"),
        ({"payer": [1], "payee": [2], "w": [-1.0]}, {"weight": "w"}, "not a finite number above 0"),
        ({"payer": [1], "payee": ["2"]}, {}, "the same node would be two"),
        ({"payer": [], "payee": []}, {}, "table of edges is empty"),
        ({"payer": [1], "payee": [2], "t": [START]}, {"time": "t"}, "None of 1 edges is there by"),
        ({"payer": [1], "payee": [2], "t": [None]}, {"time": "t"}, "is missing or no timestamp"),
        ({"payer": [1], "payee": [2], "t": ["soon"]}, {"time": "t"}, "is missing or no timestamp"),
        ({"payer": [1], "payee": [2], "t": [7]}, {"time": "t"}, "no timestamp with a time zone"),
        (
            {"payer": [1], "payee": [2], "t": [START.replace(tzinfo=None)]},
            {"time": "t"},
            "no timestamp with a time zone",
        ),
    ],
)
def test_invalid_rows_are_refused(
    run: Run, tmp_path: Path, rows: dict[str, Any], keys: dict[str, Any], words: str
) -> None:
    run()
    before = (tmp_path / "out.parquet").read_bytes()
    pl.DataFrame(rows).write_parquet(tmp_path / "bad.parquet")
    if "time" in keys:
        keys = keys | {"as_of": "2026-10-01T00:00:00Z"}
    with pytest.raises(DataError, match=words):
        run(edges=str(tmp_path / "bad.parquet"), **keys)
    assert (tmp_path / "out.parquet").read_bytes() == before, "the last good file stays"


def test_invalid_files_are_refused(run: Run, payments: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no file"):
        run(edges=str(tmp_path / "nowhere.parquet"))
    with pytest.raises(UsageError, match=r"does not end in \.parquet"):
        run(out=str(tmp_path / "out.csv"))
    with pytest.raises(UsageError, match="is an input itself"):
        run(out=str(payments))
    (tmp_path / "bad.jsonl").write_text('{"payer": 1, "payee": 2}\n{"payer": 1, \n')
    with pytest.raises(DataError, match=r"bad\.jsonl, line 2: not JSON"):
        run(edges=str(tmp_path / "bad.jsonl"))
    pl.DataFrame({"payer": [1], "payee": [2]}).write_parquet(tmp_path / "one.parquet")
    with pytest.raises(DataError, match=r"'payer' is Int64 in .+one.*, but String in .+payments"):
        run(edges=[str(tmp_path / "one.parquet"), str(payments)])
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"):
        run(out=str(tmp_path / "file" / "out.parquet"))
    pl.DataFrame({"id": ["a", None], "x": [1, 2]}).write_parquet(tmp_path / "nodes.parquet")
    with pytest.raises(DataError, match="'id' is missing in 1 of 2 rows"):
        run(nodes={"table": str(tmp_path / "nodes.parquet")})
    with pytest.raises(DataError, match="lacks the column y"):
        run(nodes={"table": str(tmp_path / "nodes.parquet"), "columns": ["y"]})


def test_a_folder_of_nodes_whose_files_differ_in_order_and_width(run: Run, tmp_path: Path) -> None:
    (tmp_path / "nodes").mkdir()
    first = pl.DataFrame({"id": ["a"], "x": [1], "y": [None]})
    first.write_parquet(tmp_path / "nodes" / "a.parquet")
    second = pl.DataFrame({"y": [2.0], "x": [0.5], "id": ["b"], "z": [7]})
    second.write_parquet(tmp_path / "nodes" / "b.parquet")
    found = run(nodes={"table": str(tmp_path / "nodes"), "aggregations": ["sum"]})
    assert column(found, "neighbour_sum_x") == {"a": 0.5, "b": 1.0, "c": 1.5, "d": None, "e": 1.0}
    assert column(found, "neighbour_sum_y")["a"] == 2.0
    # Only the later file has it.
    assert column(found, "neighbour_sum_z") == column(found, "neighbour_sum_y") | {
        name: 7.0 for name, total in column(found, "neighbour_sum_y").items() if total == 2.0
    }


def test_edges_of_files_that_differ_follow_the_rule_of_folders(run: Run, tmp_path: Path) -> None:
    # A number in one file of text and a text in another are texts; the extra column is not read.
    (tmp_path / "one.csv").write_text("payer,payee\n1,x\n")
    (tmp_path / "two.csv").write_text("payee,note,payer\n007,why,x\n")
    (tmp_path / "three.csv").write_text("payer,payee\n")
    files = [str(tmp_path / f"{name}.csv") for name in ("three", "one", "two")]
    assert column(run(edges=files), "degree") == {"1": 1, "x": 2, "007": 1}


def test_the_example_runs(
    tmp_path: Path, project_root: Path, payments: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(payments.parent)
    conf = project_root / "conf"
    example = load_config(
        GraphRecipe,
        recipe=conf / "graph" / "payments.yaml",
        sets=[f"paths.state={tmp_path / 'state'}", "graph.as_of=2026-11-09T00:00:00Z"],
        conf_dir=conf,
    ).config
    result = materialize_graph(example)
    assert (result.nodes, result.records) == (5, 5)
    found = pl.read_parquet("accounts.parquet")
    assert found.columns[:3] == ["account_id", "event_time", "in_degree"]
    assert column(found, "in_strength", "account_id")["b"] == 3.0
