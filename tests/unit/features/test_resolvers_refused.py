"""Resolvers without a meaning are refused; results that do not fit are errors that name them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from sunloom.cli.main import app
from sunloom.errors import DataError, DefinitionError
from sunloom.features.definitions.open import catalogue_of, plan_of
from sunloom.features.engine.evaluation import FeatureEngine
from sunloom.features.plan.feature_sets import NOW
from sunloom.features.plan.polars_dtypes import POLARS

HEAD = """
import asyncio
import time
from datetime import datetime
import polars as pl
from chalk import _, DataFrame, FeatureTime, Now, Primary, Windowed, feature, offline, online
from chalk import windowed
from chalk.features import Features, after, features

@features(name="{ns}_deed")
class Deed:
    id: Primary[int]
    actor_id: "Actor.id"
    at: FeatureTime
    size: float
    age: float = _.size * 2.0
    actor: "Actor"
    late: float | None = _.actor.score
    then: datetime = _.chalk_now

@features(name="{ns}_land")
class Land:
    id: Primary[str]
    title: str

@features(name="{ns}_actor")
class Actor:
    id: Primary[int]
    ts: FeatureTime
    name: str | None
    land_id: Land.id
    land: Land
    deeds: DataFrame[Deed]
    counted: Windowed[int] = windowed("7d", expression=_.deeds[_.at > _.chalk_window].count())
    made: float = _.deeds[_.size].sum()
    score: float
    rank: int | None
    moment: datetime | None

"""

REFUSED = [
    ("@online\ndef f(x: Actor.name) -> Actor.made: ...", "made, which has an expression", "Leave"),
    ("@online\ndef f(x: Actor.name) -> Actor: ...", "id, the key of Actor", "Features"),
    ("@online\ndef f(x: Actor.name) -> Actor.land: ...", "of a joined class", "own key"),
    ("@online\ndef f(x: Actor.name) -> Actor.deeds: ...", "join .*deeds", "--source"),
    ("@offline\ndef f() -> DataFrame[Actor.id, Actor.name]: ...", "no inputs", "--source"),
    ("@online\ndef f(x: Actor.id) -> DataFrame[Deed.id, Deed.size]: ...", "single values", "rows"),
    (
        "@online\ndef f(x: DataFrame[Deed.id, Deed.size]) -> DataFrame[Actor.id, Actor.score]: ...",
        "rows of another class",
        "many",
    ),
    (
        "@online\ndef f(x: DataFrame[Actor.name]) -> DataFrame[Actor.id, Actor.score]: ...",
        "does not take the key",
        "matched",
    ),
    (
        "@online\ndef f(x: DataFrame[Actor.id, Actor.name]) -> DataFrame[Actor.score]: ...",
        "does not give the key",
        "matched",
    ),
    ("@online\ndef f(x: Land.title) -> Actor.score: ...", "no feature of Actor", "Give Actor"),
    ("@online\ndef f(x: Actor.counted) -> Actor.score: ...", "window", "Annotate"),
    ("@online\ndef f(x: int) -> Actor.score: ...", "must be Features or DataFrame", "Annotate"),
    ("@online\ndef f(x: Actor.name): ...", "return annotation", "Annotate"),
    (
        "@online\ndef f(x: Actor.deeds[Deed.size, after(days_ago=3)]) -> Actor.score: ...",
        "a filter of .*deeds compares more than",
        "chalk.Now",
    ),
    (
        "@online\ndef f(x: Actor.deeds[:2]) -> Actor.score: ...",
        "deeds are limited in the annotation",
        "Limit them",
    ),
    (
        "@online\ndef twin(x: Actor.name) -> Actor.score: ...\n"
        "@online\ndef twin(x: Actor.name) -> Actor.rank: ...",
        "the resolver at .* has the same name",
        "Rename",
    ),
    (
        "@online\ndef f(x: Actor.deeds[Deed.size, Deed.late]) -> Actor.score: ...",
        "late, which depends on the as-of time or on other rows",
        "own row",
    ),
    ("@online(environment='prod')\ndef f(x: Actor.name) -> Actor.score: ...", "environment", "out"),
    ("@online(tags=['a'])\ndef f(x: Actor.name) -> Actor.score: ...", "tags=", "out"),
    ("@online\ndef f(x: Actor.name) -> Actor.score:\n    yield 1.0", "it yields", "at once"),
    ("@online\ndef f(x: Actor.rank = object()) -> Actor.score: ...", "default .*object", "None"),
    (
        "@online\ndef f(x: Actor.name) -> Actor.score: ...\n"
        "@online\ndef g(x: Actor.name) -> Actor.score: ...",
        "'g': it gives .*score, which the online resolver",
        "one @online and one @offline",
    ),
    ("@online\ndef f(x: Actor.score) -> Actor.score: ...", "circle", "source features"),
    (
        "from chalk.streams import stream, KafkaSource\nfrom pydantic import BaseModel\n"
        "class M(BaseModel):\n    id: int\n    rank: int\n"
        "@stream(source=KafkaSource(name='k', bootstrap_server='b', topic='t'))\n"
        "def f(m: M) -> Features[Actor.id, Actor.rank]: ...",
        "stream resolvers are not run",
        "streaming_source",
    ),
]

_numbers = count()


def _module(folder: Path, resolver: str) -> tuple[Path, str]:
    namespace = f"sl_res{next(_numbers)}"
    file = folder / f"{namespace}.py"
    file.write_text(HEAD.format(ns=namespace) + resolver + "\n")
    return file, namespace


@pytest.mark.parametrize("case", REFUSED, ids=[case[1] for case in REFUSED])
def test_refusals_name_function_file_line_and_the_way_out(
    tmp_path: Path, case: tuple[str, str, str]
) -> None:
    resolver, construct, instead = case
    file, _ = _module(tmp_path, resolver)
    with pytest.raises(DefinitionError) as caught:
        catalogue_of(str(file)).check_complete()
    error = caught.value
    assert re.search(construct, error.message), error.message
    assert re.search(instead, error.hint), error.hint
    assert error.exit_code == 2
    if construct != "circle":
        assert re.search(rf"{file}:\d+", error.message), error.message


def _compute(
    file: Path, namespace: str, names: list[str | None]
) -> tuple[pl.DataFrame, FeatureEngine]:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = pl.DataFrame(
        {"id": range(len(names)), "ts": [start] * len(names), "name": names},
        schema_overrides={"ts": pl.Datetime("us", "UTC"), "name": pl.String},
    )
    plan = plan_of(str(file), f"{namespace}_actor")
    read = [f for f in plan.root.features if f.expression is None and f.name not in rows.columns]
    rows = rows.with_columns(pl.lit(None, POLARS[f.dtype]).alias(f.name) for f in read)
    engine = FeatureEngine(plan, {f"{namespace}_actor": rows, f"{namespace}_deed": _no_deeds()})
    queries = rows.select("id", pl.col("ts").alias(NOW))
    return engine.compute(queries), engine


def _no_deeds() -> pl.DataFrame:
    return pl.DataFrame(
        schema={
            "id": pl.Int64,
            "actor_id": pl.Int64,
            "at": pl.Datetime("us", "UTC"),
            "size": pl.Float64,
        }
    )


WRONG = [
    ("score", "raise ValueError('no such name')", "ValueError: no such name"),
    ("score", "return 'high'", "it gave 'high', not float64"),
    ("score", "return True", "it gave True, not float64"),
    ("score", "return None", "it gave None for 'score', which is not nullable"),
    ("score", "return Actor(rank=1)", "Feature 'score' is not defined"),
]


@pytest.mark.parametrize(("output", "body", "cause"), WRONG, ids=[case[2] for case in WRONG])
def test_a_failure_of_a_feature_that_is_not_nullable_is_an_error(
    tmp_path: Path, output: str, body: str, cause: str
) -> None:
    resolver = f"@online\ndef f(x: Actor.name) -> Actor.{output}:\n    {body}"
    file, namespace = _module(tmp_path, resolver)
    with pytest.raises(DataError) as caught:
        _compute(file, namespace, ["ann", "bo"])
    message = caught.value.message
    assert cause in message
    assert f"Resolver '{namespace}.f' ({file}:" in message
    assert "id 0 at 2026-01-01T00:00:00+00:00" in message
    assert "Failed: 2 of 2" in caught.value.hint


@pytest.mark.parametrize(
    ("output", "body"),
    [
        ("rank", "return 2.5"),
        ("rank", "return float('nan')"),
        ("rank", "return 2**63"),
        ("rank", "raise KeyError(x)"),
        ("moment", "return datetime(2026, 1, 1)"),
    ],
)
def test_a_failure_of_a_nullable_feature_is_null_and_counted(
    tmp_path: Path, output: str, body: str
) -> None:
    body = f"if x == 'bo':\n        {body}\n    return None"
    resolver = f"@online\ndef f(x: Actor.name) -> Actor.{output}:\n    {body}"
    file, namespace = _module(tmp_path, resolver)
    results, engine = _compute(file, namespace, ["ann", "bo", None])
    assert results[output].to_list() == [None, None, None]
    assert engine.counters.counts() == {"resolver_failures": {f"{namespace}.f": 1}}


FRAMES = [
    ("return rows.drop('{ns}_actor.id')", "lacks 'id'"),
    ("return pl.concat([rows, rows])", "key 0 more than once"),
    ("return 3", "it gave a int, not a DataFrame"),
    ("return rows.filter(pl.col('{ns}_actor.id') > 0)", "nothing for 'score'"),
    ("raise OSError('gone')", "OSError: gone"),
]


@pytest.mark.parametrize(("body", "cause"), FRAMES, ids=[case[1] for case in FRAMES])
def test_a_batch_that_does_not_fit_is_an_error(tmp_path: Path, body: str, cause: str) -> None:
    file, namespace = _module(
        tmp_path,
        "@online\ndef f(df: DataFrame[Actor.id]) -> DataFrame[Actor.id, Actor.score]:\n"
        "    rows = df.to_polars().collect()\n    name = rows.columns[0].replace('.id', '.score')\n"
        "    rows = rows.with_columns(pl.lit(1.0).alias(name))\n"
        f"    {body}",
    )
    file.write_text(file.read_text().replace("{ns}", namespace))
    with pytest.raises(DataError, match=re.escape(cause)):
        _compute(file, namespace, ["ann", "bo"])


def test_each_key_stands_once_in_a_batch_and_batches_are_no_larger_than_configured(
    tmp_path: Path,
) -> None:
    file, namespace = _module(
        tmp_path,
        "@online(max_batch_size=2)\n"
        "def f(df: DataFrame[Actor.id, Actor.name]) -> DataFrame[Actor.id, Actor.rank]:\n"
        "    rows = df.to_polars().collect()\n    key = rows.columns[0]\n"
        "    assert rows[key].is_unique().all()\n"
        "    return rows.select(key, pl.lit(rows.height).alias(key.replace('.id', '.rank')))",
    )
    plan = plan_of(str(file), f"{namespace}_actor")
    start = datetime(2026, 1, 1, tzinfo=UTC)
    queries = pl.DataFrame(
        {"id": [1, 2, 3, 1, 1], NOW: [start] * 5}, schema_overrides={NOW: pl.Datetime("us", "UTC")}
    )
    engine = FeatureEngine(plan, {f"{namespace}_deed": _no_deeds()})
    assert engine.compute(queries)["rank"].to_list() == [2, 2, 1, 1, 1]
    assert not engine.counters.counts()


def test_calls_that_overrun_again_and_again_are_an_error(tmp_path: Path) -> None:
    file, namespace = _module(
        tmp_path,
        "@online(timeout='5ms')\ndef f(x: Actor.name) -> Actor.rank:\n    time.sleep(1.5)",
    )
    with pytest.raises(DataError, match=r"17 calls overran their timeout of 0\.005 s"):
        _compute(file, namespace, ["n"] * 20)


def test_async_calls_run_together_and_end_at_their_timeout(tmp_path: Path) -> None:
    file, namespace = _module(
        tmp_path,
        "ENDED = []\n@online(timeout='200ms')\nasync def f(x: Actor.name) -> Actor.rank:\n"
        "    try:\n        await asyncio.sleep(60 if x == 'slow' else 0.05)\n"
        "    finally:\n        ENDED.append(x)\n    return len(x)",
    )
    started = datetime.now(UTC)
    results, engine = _compute(file, namespace, ["ann"] * 40 + ["slow"])
    assert results["rank"].to_list() == [3] * 40 + [None]
    assert engine.counters.counts() == {"resolver_failures": {f"{namespace}.f": 1}}
    assert (datetime.now(UTC) - started).total_seconds() < 1.5


def test_a_sql_query_that_a_function_returns_is_refused_and_never_null(tmp_path: Path) -> None:
    file, namespace = _module(
        tmp_path,
        "from chalk.sql import SQLiteInMemorySource\n@online\ndef f(x: Actor.name) -> Actor.rank:\n"
        "    return SQLiteInMemorySource().query_string('select 1')",
    )
    with pytest.raises(DefinitionError, match="returns a SQL query"):
        _compute(file, namespace, ["ann"])


def test_rows_are_filtered_as_the_annotation_says(tmp_path: Path) -> None:
    file, namespace = _module(
        tmp_path,
        "@online\ndef f(x: Actor.deeds[Deed.size, Deed.age > 4.0, Deed.size < 9.0]) -> Actor.score:"
        "\n    assert [c.name for c in x.columns] == ['size'], x.columns\n"
        "    return x[Deed.size].sum() if len(x) else -1.0",
    )
    start = datetime(2026, 1, 1, tzinfo=UTC)
    deeds = pl.DataFrame(
        {"id": range(5), "actor_id": [0, 0, 0, 0, 1], "size": [1.0, 3.0, 5.0, 20.0, 2.0]}
    ).with_columns(at=pl.lit(start, pl.Datetime("us", "UTC")))
    plan = plan_of(str(file), f"{namespace}_actor")
    queries = pl.DataFrame({"id": [0, 1, 2], NOW: [start] * 3}).cast(
        {NOW: pl.Datetime("us", "UTC")}
    )
    found = FeatureEngine(plan, {f"{namespace}_deed": deeds}).compute(queries)
    assert found["score"].to_list() == [8.0, -1.0, -1.0]


def test_a_changed_function_is_noticed(tmp_path: Path) -> None:
    file, namespace = _module(
        tmp_path, "@online\ndef f(x: Actor.name) -> Actor.rank:\n    return 1"
    )
    plan = plan_of(str(file), f"{namespace}_actor")
    # Another process would see the new text; here the changed file is a second module.
    text = file.read_text().replace("return 1", "return 2").replace(namespace, f"{namespace}b")
    file.write_text(text)
    queries = pl.DataFrame({"id": [1], NOW: [datetime(2026, 1, 1, tzinfo=UTC)], "name": ["a"]})
    engine = FeatureEngine(plan, {f"{namespace}_deed": _no_deeds()})
    with pytest.raises(DefinitionError, match="has changed"):
        engine.compute(queries)


def test_commands_list_and_plan_and_exit_2_with_the_place(tmp_path: Path) -> None:
    good, namespace = _module(
        tmp_path, "@online\ndef f(x: Actor.name) -> Actor.score:\n    return 1.0"
    )
    bad, _ = _module(tmp_path, "@offline\ndef g() -> DataFrame[Actor.id, Actor.name]: ...")
    run = CliRunner()
    listed = run.invoke(app, ["features", "list", "--definitions", str(good), "--json"])
    assert listed.exit_code == 0, listed.output
    rows = {row["feature"]: row for row in json.loads(listed.stdout)["features"]}
    row = rows[f"{namespace}_actor.score"]
    assert row["made by"] == "@online f"
    assert row["resolvers"][0]["place"].startswith(f"{good}:")
    planned = run.invoke(
        app, ["features", "plan", f"{namespace}_actor", "--definitions", str(good)]
    )
    assert planned.exit_code == 0, planned.output
    assert "@online f" in planned.stdout
    refused = _run("list", "--definitions", str(bad), "--strict")
    assert refused.returncode == 2
    assert f"{bad}:" in refused.stderr.replace("\n", "")


def _run(*args: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("sunloom")), "features", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
