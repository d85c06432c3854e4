"""Sets that Chalk computes: what chalkpy's client sends to a real socket, and what comes of it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from chalk_recorder import Recorder
from pydantic import SecretStr

from sunloom.config import load_config
from sunloom.config.features import ChalkConfig, FeaturesRecipe
from sunloom.errors import ConfigError, DataError, FeatureError, NotFoundError
from sunloom.feature_store.materialization.materialize import materialize
from sunloom.feature_store.stores.online.open import open_online_store
from sunloom.features.definitions.open import outline_of
from sunloom.features.historical.chalk_query import historical_chalk
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.plan.polars_dtypes import POLARS

SECRET, CLIENT = "s3cr3t-never-shown", "token-client-never-shown"
START = datetime(2026, 4, 1, 12, tzinfo=UTC)
SOURCE = """
from datetime import datetime
from chalk import DataFrame, FeatureTime, Primary, Windowed, _, feature, windowed
from chalk.features import features

@features(name="cd_deed")
class Deed:
    id: Primary[int]
    actor_id: "Actor.id"
    at: FeatureTime

@features(name="cd_actor")
class Actor:
    id: Primary[int]
    score: float | None
    seen: datetime | None
    deeds: DataFrame[Deed]
    counted: Windowed[int] = windowed("1d", expression=_.deeds[_.at > _.chalk_window].count())
    odd: str
"""


def _values(inputs: dict[str, list[Any]], query: dict[str, Any]) -> pa.Table:
    ids = inputs["cd_actor.id"]
    made: dict[str, pa.Array] = {
        "cd_actor.id": pa.array(ids, pa.int64()),
        "cd_actor.score": pa.array([None if i == 3 else i / 2 for i in ids], pa.float64()),
        "cd_actor.seen": pa.array([START] * len(ids), pa.timestamp("us", "UTC")),
        "cd_actor.counted__86400__": pa.array([i * 10 for i in ids], pa.int32()),
        "cd_actor.odd": pa.array([f"odd {i}" for i in ids]),
    }
    return pa.table({name: made[name] for name in query["outputs"]})


@pytest.fixture
def chalk() -> Iterator[Recorder]:
    recorder = Recorder(_values)
    yield recorder
    recorder.close()


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("chalk") / "actors.py"
    file.write_text(SOURCE)
    return file


@pytest.fixture(scope="module")
def plan(definitions: Path) -> Plan:
    return outline_of(str(definitions), "cd_actor")


def _config(url: str, **more: Any) -> ChalkConfig:
    return ChalkConfig(
        project_id="p-1",
        environment="staging",
        api_server=url,
        client_id=SecretStr(CLIENT),
        client_secret=SecretStr(SECRET),
        **more,
    )


def _entities(ids: list[int]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": ids,
            "event_time": [START + timedelta(hours=n) for n in range(len(ids))],
            "note": [str(i) for i in ids],
        },
        schema={"id": pl.Int64, "event_time": pl.Datetime("us", "UTC"), "note": pl.String},
    )


def test_what_is_sent_and_what_comes_back(chalk: Recorder, plan: Plan) -> None:
    entities = _entities([7, 3, 7])
    result = historical_chalk(_config(chalk.url), plan, entities)

    token, query = chalk.requests
    assert token["path"] == "/v1/oauth/token"
    exchanged = json.loads(token["body"])
    assert (exchanged["client_id"], exchanged["client_secret"]) == (CLIENT, SECRET)
    assert exchanged["grant_type"] == "client_credentials"

    assert query["path"] == "/v1/query/feather"
    assert query["headers"]["Authorization"] == "Bearer bearer-never-shown"
    assert query["headers"]["X-Chalk-Env-Id"] == "staging"
    assert query["headers"]["User-Agent"].startswith("chalkpy-")
    assert query["inputs"] == {"cd_actor.id": [7, 3, 7]}
    sent = query["query"]
    assert sent["meta"] == {"client": "sunloom", "project_id": "p-1"}
    assert sent["outputs"] == ["cd_actor.id", *(f"cd_actor.{name}" for name in plan.outputs)]
    assert [datetime.fromisoformat(one) for one in sent["now"]] == entities["event_time"].to_list()

    assert result.table.columns == [*entities.columns, "score", "seen", "counted__86400__", "odd"]
    assert result.table["note"].to_list() == ["7", "3", "7"]
    assert result.table["score"].to_list() == [3.5, None, 3.5]
    assert result.table["counted__86400__"].to_list() == [70, 30, 70]
    assert result.table["counted__86400__"].dtype == pl.Int64
    assert result.table["seen"].to_list() == [START] * 3


def test_rows_go_in_batches_under_one_token(chalk: Recorder, plan: Plan) -> None:
    result = historical_chalk(_config(chalk.url, batch_rows=2), plan, _entities([1, 2, 3, 4, 5]))
    assert [one["path"] for one in chalk.requests].count("/v1/oauth/token") == 1
    queries = [one["inputs"]["cd_actor.id"] for one in chalk.requests[1:]]
    assert queries == [[1, 2], [3, 4], [5]]
    assert result.table["odd"].to_list() == [f"odd {i}" for i in range(1, 6)]


def test_no_rows_ask_nothing(chalk: Recorder, plan: Plan) -> None:
    result = historical_chalk(_config(chalk.url), plan, _entities([]))
    assert result.table.schema["counted__86400__"] == pl.Int64
    assert chalk.requests == []


def _fails(config: ChalkConfig, plan: Plan, caplog: pytest.LogCaptureFixture) -> FeatureError:
    with caplog.at_level(logging.DEBUG), pytest.raises(FeatureError) as caught:
        historical_chalk(config, plan, _entities([1]))
    error = caught.value
    for secret in (SECRET, CLIENT, "bearer-never-shown"):
        assert secret not in str(error)
        assert secret not in caplog.text
    assert error.__cause__ is None
    return error


@pytest.mark.parametrize(
    ("token", "query", "message", "param"),
    [
        (401, 200, r"refuses the credentials \(401\)", "chalk.client_id"),
        (200, 401, r"refuses the credentials \(401\)", "chalk.client_id"),
        (200, 403, r"refuses the credentials \(403\)", "chalk.client_id"),
        (503, 200, "answered 503", "chalk.api_server"),
        (200, 500, "no such luck", None),
    ],
)
def test_refusals_and_server_errors_are_one_error_each(
    chalk: Recorder,
    plan: Plan,
    caplog: pytest.LogCaptureFixture,
    token: int,
    query: int,
    message: str,
    param: str | None,
) -> None:
    chalk.token_status, chalk.query_status = token, query
    error = _fails(_config(chalk.url), plan, caplog)
    assert re.search(message, error.message), error.message
    assert "environment 'staging'" in error.message
    assert error.param == param


def test_unreachable(plan: Plan, chalk: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    chalk.close()
    error = _fails(_config(chalk.url), plan, caplog)
    assert "cannot be reached: ConnectionError" in error.message


def test_too_slow(plan: Plan, chalk: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    chalk.delay_s = 0.6
    error = _fails(_config(chalk.url, timeout_s=0.2), plan, caplog)
    assert "no response within 0.2 s" in error.message or "cannot be reached" in error.message


def test_resolver_errors_in_the_answer(
    plan: Plan, chalk: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    failed = {"code": "RESOLVER_FAILED", "message": "score broke", "category": "NETWORK"}
    chalk.answer = lambda _inputs, _query: [failed] * 5
    error = _fails(_config(chalk.url), plan, caplog)
    assert "RESOLVER_FAILED: score broke" in error.message
    assert "and 2 more" in error.message


def test_answers_that_do_not_fit_are_errors(plan: Plan, chalk: Recorder) -> None:
    def shuffled(inputs: dict[str, list[Any]], query: dict[str, Any]) -> pa.Table:
        return _values({"cd_actor.id": inputs["cd_actor.id"][::-1]}, query)

    chalk.answer = shuffled
    with pytest.raises(DataError, match="another order"):
        historical_chalk(_config(chalk.url), plan, _entities([1, 2]))
    chalk.answer = lambda inputs, query: _values(inputs, query).drop(["cd_actor.odd"])
    with pytest.raises(DataError, match=r"lacks 'cd_actor\.odd'"):
        historical_chalk(_config(chalk.url), plan, _entities([1, 2]))


def test_an_outline_needs_no_expression_that_we_can_compute(tmp_path: Path) -> None:
    file = tmp_path / "beyond.py"
    file.write_text(
        "from chalk import Primary, _\nfrom chalk.features import features\n"
        "import chalk.functions as F\n\n"
        '@features(name="cd_beyond")\nclass B:\n    id: Primary[int]\n    a: str\n'
        "    b: float = F.jaccard_similarity(_.a, _.a)\n"
    )
    assert outline_of(str(file), "cd_beyond").outputs == ("a", "b")
    with pytest.raises(NotFoundError) as caught:
        outline_of(str(file), "cd_beyon")
    assert "cd_beyond" in caught.value.hint


def _recipe_file(tmp_path: Path, definitions: Path, url: str) -> Path:
    (tmp_path / "who.csv").write_text("id\n4\n3\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"definitions: {definitions}\nfeature_set: cd_actor\n"
        "feature_store: {batch_source: {type: files, tables: {}}}\n"
        f"online: {{as_of: 2026-04-01T12:00:00Z, entities: {tmp_path / 'who.csv'}}}\n"
        "execution: {engine: chalk}\n"
        f"chalk:\n  project_id: p-1\n  environment: staging\n  api_server: {url}\n"
        "  client_id: ${CHALK_CLIENT_ID}\n  client_secret: ${CHALK_CLIENT_SECRET}\n"
    )
    return recipe


def test_a_recipe_with_engine_chalk_materialises_what_chalk_answers(
    chalk: Recorder,
    definitions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    project_root: Path,
) -> None:
    monkeypatch.setenv("SUNLOOM_CONF", str(project_root / "conf"))
    recipe_file = _recipe_file(tmp_path, definitions, chalk.url)
    sets = [f"paths.state={tmp_path / 'state'}", f"paths.outputs={tmp_path / 'outputs'}"]
    with pytest.raises(ConfigError, match="CHALK_CLIENT_ID"):
        load_config(FeaturesRecipe, recipe=recipe_file, sets=sets)
    monkeypatch.setenv("CHALK_CLIENT_ID", CLIENT)
    monkeypatch.setenv("CHALK_CLIENT_SECRET", SECRET)
    recipe = load_config(FeaturesRecipe, recipe=recipe_file, sets=sets).config
    assert SECRET not in repr(recipe)
    assert CLIENT not in repr(recipe)

    result = materialize(recipe)
    assert (result.online_entities, result.engines_equal) == (2, None)
    assert chalk.requests[-1]["inputs"] == {"cd_actor.id": [4, 3]}
    assert set(chalk.requests[-1]["query"]["now"]) == {START.isoformat()}
    stored = open_online_store(recipe).read("cd_actor", [3, 4], ["score", "odd"])
    assert stored == [{"score": None, "odd": "odd 3"}, {"score": 2.0, "odd": "odd 4"}]


@pytest.mark.parametrize("missing", ["CHALK_CLIENT_ID", "CHALK_CLIENT_SECRET"])
def test_a_missing_token_is_named(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in ("CHALK_CLIENT_ID", "CHALK_CLIENT_SECRET"):
        monkeypatch.setenv(name, "there")
    monkeypatch.delenv(missing)
    config = ChalkConfig(environment="staging")
    with pytest.raises(ConfigError, match=f"{missing} is not set"):
        historical_chalk(config, plan, _entities([1]))


def test_engine_chalk_without_an_environment_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project_root: Path
) -> None:
    monkeypatch.setenv("SUNLOOM_CONF", str(project_root / "conf"))
    recipe_file = _recipe_file(tmp_path, tmp_path / "actors.py", "http://127.0.0.1:1")
    recipe_file.write_text(recipe_file.read_text().split("chalk:\n")[0])
    with pytest.raises(ConfigError, match="name the environment under chalk"):
        load_config(FeaturesRecipe, recipe=recipe_file)


def test_the_shipped_recipe_asks_chalk_for_training_and_online_rows(
    chalk: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project_root: Path
) -> None:
    monkeypatch.setenv("SUNLOOM_CONF", str(project_root / "conf"))
    monkeypatch.setenv("CHALK_CLIENT_ID", CLIENT)
    monkeypatch.setenv("CHALK_CLIENT_SECRET", SECRET)
    folder = tmp_path / "outputs" / "data" / "cdnow"
    folder.mkdir(parents=True)
    times = [datetime(1997, 1, 2, tzinfo=UTC) + timedelta(days=n) for n in range(9)]
    purchases = pl.DataFrame(
        {"id": range(9), "customer_id": [1, 2, 3] * 3, "timestamp": times, "amount": [1.0] * 9},
        schema_overrides={"timestamp": pl.Datetime("us", "UTC")},
    ).with_columns(quantity=1)
    purchases.write_parquet(folder / "purchases.parquet")
    first = purchases.group_by(pl.col("customer_id").alias("id"), maintain_order=True)
    first.agg(first_seen=pl.col("timestamp").min()).write_parquet(folder / "customers.parquet")
    plan = outline_of("retail", "customer")

    def answer(inputs: dict[str, list[Any]], query: dict[str, Any]) -> pa.Table:
        ids = inputs["customer.id"]
        types = {f.fqn: POLARS[f.dtype] for f in plan.root.features}
        frame = pl.DataFrame({name: [None] * len(ids) for name in query["outputs"]})
        frame = frame.cast({name: types[name] for name in frame.columns})
        made = [pl.Series("customer.id", ids), pl.lit(7).alias("customer.frequency")]
        return frame.with_columns(made).to_arrow()

    chalk.answer = answer
    sets = [f"paths.state={tmp_path / 'state'}", f"paths.outputs={tmp_path / 'outputs'}"]
    sets += [f"chalk.api_server={chalk.url}"]
    recipe_file = project_root / "conf" / "features" / "customer_chalk.yaml"
    recipe = load_config(FeaturesRecipe, recipe=recipe_file, sets=sets).config
    result = materialize(recipe)
    assert (result.training_rows, result.online_entities) == (12, 3)
    trained = pl.read_parquet(recipe.features_folder() / "training_1997-03-31.parquet")
    assert trained["frequency"].to_list() == [7, 7, 7]
    assert chalk.requests[1]["headers"]["X-Chalk-Env-Id"] == "production"
    assert len(set(chalk.requests[1]["query"]["now"])) == 4
