"""Values that a Chalk environment computes, asked for by chalkpy's own client."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from sunloom.config.features.chalk import ChalkConfig
from sunloom.core.telemetry import get_logger
from sunloom.errors import DataError, FeatureError
from sunloom.features.historical.retrieve import HistoricalResult, appended, questions_of
from sunloom.features.plan.columns import NOW
from sunloom.features.plan.feature_sets import Plan
from sunloom.features.plan.polars_dtypes import POLARS

_CONNECT_S = 10.0
_SHOWN = 3
_STATUS = re.compile(r"(?:Response Status Code: |^)(401|403)\b")
_log = get_logger("features.delegate")


def historical_chalk(config: ChalkConfig, plan: Plan, entities: pl.DataFrame) -> HistoricalResult:
    """The feature set for rows, each as of its moment; rows keep their order and number.

    Args:
        config: The Chalk environment.
        plan: Names and types: see ``load_outline``.
        entities: Rows with the key under its feature name and ``event_time``.

    Raises:
        FeatureError: Chalk cannot be reached, refuses, or reports errors.
        DataError: Its answer does not fit the question.
    """
    # With a source of its own, no carried column is an input.
    questions = questions_of(plan, entities, {plan.namespace: Path()})
    ids, moments = questions[plan.root.key], questions[NOW]
    chalk = _Chalk(config)
    parts = [
        _asked(chalk, plan, plan.outputs, ids[rows].to_list(), moments[rows].to_list())
        for rows in _batches(questions.height, config.batch_rows)
    ]
    empty = pl.DataFrame(schema={n: POLARS[plan.root.feature(n).dtype] for n in plan.outputs})
    return HistoricalResult(appended(entities, pl.concat([empty, *parts])), pl.DataFrame(), 0)


def online_chalk(
    config: ChalkConfig, plan: Plan, ids: Sequence[Any], features: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """The feature set of entities at present, in their order.

    Raises:
        NotFoundError: Unknown feature.
        FeatureError: Chalk cannot be reached, refuses, or reports errors.
        DataError: Its answer does not fit the question.
    """
    names = plan.outputs if features is None else tuple(features)
    for name in names:
        plan.root.feature(name)
    chalk, found = _Chalk(config), list[dict[str, Any]]()
    for rows in _batches(len(ids), config.batch_rows):
        found += _asked(chalk, plan, names, list(ids[rows]), None).to_dicts()
    return found


def _batches(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _asked(
    chalk: _Chalk,
    plan: Plan,
    names: Sequence[str],
    ids: list[Any],
    moments: list[datetime] | None,
) -> pl.DataFrame:
    key = f"{plan.namespace}.{plan.root.key}"
    wanted = [plan.root.feature(name).fqn for name in names]
    result = chalk.query(input={key: ids}, output=[key, *wanted], now=moments)
    return _decoded(plan, names, ids, result)


class _Chalk:
    """One client: its token serves all queries of a computation.

    Args:
        config: The Chalk environment.
    """

    def __init__(self, config: ChalkConfig) -> None:
        from chalk.client import ChalkClient

        self._config = config
        self._where = f"Chalk at {config.api_server} (environment {config.environment!r})"
        self._meta = {"client": "sunloom"}
        if config.project_id is not None:
            self._meta["project_id"] = config.project_id
        client_id, client_secret = config.credentials()
        self._client = ChalkClient(
            client_id=client_id,
            client_secret=client_secret,
            environment=config.environment,
            api_server=config.api_server,
            default_request_timeout=config.timeout_s,
            default_connect_timeout=_CONNECT_S,
        )

    def query(self, **query: Any) -> Any:
        """The result of one bulk query; each failure is one error, without a secret in it."""
        import requests
        from chalk.client import ChalkBaseException

        try:
            results = self._client.query_bulk(meta=self._meta, **query).results
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            raise _refused(self._where, status) from None
        except requests.Timeout:
            raise FeatureError(
                f"{self._where} gave no answer within {self._config.timeout_s:g} s.",
                "Ask for fewer rows (chalk.batch_rows), or raise chalk.timeout_s.",
                "chalk.timeout_s",
            ) from None
        except requests.JSONDecodeError:
            raise _unreadable(self._where, "no JSON") from None
        except requests.RequestException as error:
            raise FeatureError(
                f"{self._where} cannot be reached: {type(error).__name__}.",
                "Check chalk.api_server and the network.",
                "chalk.api_server",
            ) from None
        except ChalkBaseException as error:
            raise _failed(self._where, error) from None
        except (ValueError, TypeError, RuntimeError, AssertionError, KeyError) as error:
            raise _unreadable(self._where, str(error) or type(error).__name__) from None
        return _only(self._where, results)


def _unreadable(where: str, why: str) -> FeatureError:
    return FeatureError(
        f"{where} gave an answer that cannot be read: {why.rstrip('.')}.",
        "Check that chalk.api_server is a Chalk API of this client's version.",
        "chalk.api_server",
    )


def _only(where: str, results: Sequence[Any]) -> Any:
    if len(results) != 1:
        raise DataError(f"{where} gave {len(results)} results to one query.")
    if results[0].errors:
        raise _errors(where, results[0].errors)
    if results[0].scalars_df is None:
        raise DataError(f"{where} gave no rows.")
    return results[0]


def _refused(where: str, status: int) -> FeatureError:
    if status in (401, 403):
        return FeatureError(
            f"{where} refuses the credentials ({status}).",
            "Check CHALK_CLIENT_ID and CHALK_CLIENT_SECRET, and that the token may use this "
            "environment.",
            "chalk.client_id",
        )
    return FeatureError(f"{where} answered {status}.", "Try again later.", "chalk.api_server")


def _failed(where: str, error: Any) -> FeatureError:
    if error.errors:
        return _errors(where, error.errors)
    text = str(error.detail or error).strip()
    refused = _STATUS.search(text)
    if refused is not None:
        # The client's own text quotes the client id.
        return _refused(where, int(refused[1]))
    return FeatureError(f"{where} answered with an error: {text}.")


def _errors(where: str, errors: Sequence[Any]) -> FeatureError:
    texts = [f"{one.code.value}: {one.message}" for one in errors]
    more = f", and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    _log.warning("%s reports %d errors", where, len(texts))
    return FeatureError(
        f"{where} reports: {'; '.join(texts[:_SHOWN])}{more}.",
        "Chalk's dashboard shows the query with its resolvers.",
    )


def _decoded(plan: Plan, names: Sequence[str], ids: list[Any], result: Any) -> pl.DataFrame:
    frame: pl.DataFrame = result.scalars_df
    key = f"{plan.namespace}.{plan.root.key}"
    wanted = {plan.root.feature(name).fqn: plan.root.feature(name) for name in names}
    lacking = [fqn for fqn in (key, *wanted) if fqn not in frame.columns]
    if lacking:
        raise DataError(
            f"Chalk's answer lacks {lacking[0]!r}; it has {', '.join(frame.columns)}.",
            "Deploy these definitions to the environment.",
            lacking[0],
        )
    if frame[key].to_list() != ids:
        raise DataError(
            f"Chalk answered {frame.height} rows in another order than the {len(ids)} asked about.",
            "Its rows cannot be told apart where one key is asked at several moments.",
            key,
        )
    columns = [pl.col(fqn).cast(POLARS[f.dtype]).alias(f.name) for fqn, f in wanted.items()]
    try:
        return frame.select(columns)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"Chalk's answer is not of the declared types: {error}.") from error
