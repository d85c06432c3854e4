"""The historical computation by a Chalk environment, queried with chalkpy's own client."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import polars as pl

from sunloom.config.features import ChalkConfig
from sunloom.core.telemetry import get_logger
from sunloom.data.exact_casts import cast_declared
from sunloom.errors import DataError, FeatureError
from sunloom.features.historical.query import HistoricalResult, append_features, build_query_frame
from sunloom.features.plan.feature_sets import NOW, Plan
from sunloom.features.plan.polars_dtypes import POLARS

_CONNECT_S = 10.0
_ERRORS_SHOWN = 3
_STATUS = re.compile(r"(?:Response Status Code: |^)(401|403)\b")
_log = get_logger("features.delegate")


def historical_chalk(config: ChalkConfig, plan: Plan, entities: pl.DataFrame) -> HistoricalResult:
    """The feature set for rows, each as of its event time; rows keep their order and number.

    Args:
        config: The Chalk environment.
        plan: Names and types: see ``outline_of``.
        entities: Rows with the key under its feature name and ``event_time``.

    Raises:
        FeatureError: Chalk cannot be reached, refuses, or reports errors.
        DataError: Its response does not fit the query.
    """
    # Chalk's environment has sources of its own: no carried column is an input.
    query = build_query_frame(plan, entities, has_source=True)
    environment = _ChalkEnvironment(config)
    parts = [
        environment.features(plan, batch[plan.root.key].to_list(), batch[NOW].to_list())
        for batch in query.iter_slices(config.batch_rows)
        if batch.height
    ]
    empty = pl.DataFrame(schema={n: POLARS[plan.root.feature(n).dtype] for n in plan.outputs})
    return HistoricalResult(append_features(entities, pl.concat([empty, *parts])))


class _ChalkEnvironment:
    """A client of one environment: its token serves all queries of a computation.

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

    def features(self, plan: Plan, keys: list[Any], times: list[datetime]) -> pl.DataFrame:
        """The plan's features of entities, each as of its time, in order."""
        key = f"{plan.namespace}.{plan.root.key}"
        features = [plan.root.feature(name) for name in plan.outputs]
        names = [key, *(feature.fqn for feature in features)]
        rows = self._query(input={key: keys}, output=names, now=times)
        missing = next((name for name in names if name not in rows.columns), None)
        if missing is not None:
            raise DataError(
                f"Chalk's response lacks {missing!r}; it has {', '.join(rows.columns)}.",
                "Deploy these definitions to the environment.",
                missing,
            )
        if rows[key].to_list() != keys:
            raise DataError(
                f"Chalk returned {rows.height} rows in another order than the {len(keys)} queried.",
                "Rows of one key at several times cannot be told apart.",
                key,
            )
        try:
            return pl.DataFrame(
                cast_declared(rows[f.fqn], POLARS[f.dtype]).alias(f.name) for f in features
            )
        except (pl.exceptions.PolarsError, ValueError) as error:
            raise DataError(f"Chalk's response is not of the declared types: {error}.") from error

    def _query(self, **query: Any) -> pl.DataFrame:
        """The rows of one bulk query; each failure is one error, without a secret in it."""
        import requests
        from chalk.client import ChalkBaseException

        try:
            results = self._client.query_bulk(meta=self._meta, **query).results
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            raise self._status_error(status) from None
        except requests.Timeout:
            raise FeatureError(
                f"{self._where} gave no response within {self._config.timeout_s:g} s.",
                "Query fewer rows at once (chalk.batch_rows), or raise chalk.timeout_s.",
                "chalk.timeout_s",
            ) from None
        except requests.JSONDecodeError:
            raise self._unreadable("no JSON") from None
        except requests.RequestException as error:
            raise FeatureError(
                f"{self._where} cannot be reached: {type(error).__name__}.",
                "Check chalk.api_server and the network.",
                "chalk.api_server",
            ) from None
        except ChalkBaseException as error:
            raise self._client_error(error) from None
        except (ValueError, TypeError, RuntimeError, AssertionError, KeyError) as error:
            raise self._unreadable(str(error) or type(error).__name__) from None
        if len(results) != 1:
            raise DataError(f"{self._where} gave {len(results)} results to one query.")
        if results[0].errors:
            raise self._resolver_error(results[0].errors)
        if results[0].scalars_df is None:
            raise DataError(f"{self._where} gave no rows.")
        rows: pl.DataFrame = results[0].scalars_df
        return rows

    def _status_error(self, status: int) -> FeatureError:
        if status in (401, 403):
            return FeatureError(
                f"{self._where} refuses the credentials ({status}).",
                "Check CHALK_CLIENT_ID and CHALK_CLIENT_SECRET, and that the token may use this "
                "environment.",
                "chalk.client_id",
            )
        return FeatureError(
            f"{self._where} answered {status}.", "Try again later.", "chalk.api_server"
        )

    def _client_error(self, error: Any) -> FeatureError:
        if error.errors:
            return self._resolver_error(error.errors)
        text = str(error.detail or error).strip()
        refused = _STATUS.search(text)
        if refused is not None:
            # The client's own text quotes the client id.
            return self._status_error(int(refused[1]))
        return FeatureError(f"{self._where} answered with an error: {text}.")

    def _resolver_error(self, errors: Sequence[Any]) -> FeatureError:
        _log.warning("%s reports %d errors", self._where, len(errors))
        texts = [f"{error.code.value}: {error.message}" for error in errors[:_ERRORS_SHOWN]]
        hidden = len(errors) - len(texts)
        more = f", and {hidden} more" if hidden else ""
        return FeatureError(
            f"{self._where} reports: {'; '.join(texts)}{more}.",
            "Chalk's dashboard shows the query with its resolvers.",
        )

    def _unreadable(self, why: str) -> FeatureError:
        return FeatureError(
            f"{self._where} gave a response that cannot be read: {why.rstrip('.')}.",
            "Check that chalk.api_server is a Chalk API of this client's version.",
            "chalk.api_server",
        )
