"""Record what Chalk's own local evaluator answers, as the golden values of the unit tests.

It needs ``pip install chalkpy==2.166.1 chalkdf`` in an environment of its own; chalkdf is a
development-time oracle that is never shipped. Run it from the project's root after adding a case:

    PYTHONPATH=tests/unit/features python tests/support/record_golden.py

It writes ``golden_functions.json`` and ``golden_aggregations.json``; CI reads only those.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from pathlib import Path
from typing import Any

import chalk.functions as F
import chalk_classes_golden
import pyarrow as pa
from chalk.features import _
from chalk.features.eval_underscore import eval_underscore
from chalkdf import DataFrame
from golden_cases import FUNCTIONS, ROWS
from golden_events import AGGREGATIONS, DOCUMENTED, EVENTS

UNIT = Path(__file__).parents[1] / "unit" / "features"
TIME = pa.timestamp("us", "UTC")
TEXT = pa.large_string()
PLACE = pa.struct([("town", TEXT), ("code", pa.int64())])
COLUMNS = {
    "i": pa.int64(),
    "j": pa.int64(),
    "x": pa.float64(),
    "y": pa.float64(),
    "s": TEXT,
    "q": TEXT,
    "b": pa.bool_(),
    "c": pa.bool_(),
    "d": TIME,
    "e": TIME,
    "p": pa.large_list(pa.int64()),
    "m": pa.large_list(pa.float64()),
    "t": pa.large_list(TEXT),
    "a": pa.struct([("city", TEXT), ("zip", pa.int64()), ("place", PLACE)]),
    "h": TEXT,
}
EVENT_COLUMNS = {
    "owner_id": pa.int64(),
    "at": TIME,
    "x": pa.float64(),
    "n": pa.int64(),
    "s": TEXT,
    "b": pa.bool_(),
    "d": TIME,
}


def encoded(value: Any) -> Any:
    """The value as JSON that the tests decode without loss."""
    if isinstance(value, list):
        return [encoded(item) for item in value]
    if isinstance(value, dict):
        return {"struct": {name: encoded(item) for name, item in value.items()}}
    if isinstance(value, dt.datetime):
        return {"datetime": value.astimezone(dt.UTC).isoformat()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    return value


def parsed(text: str) -> Any:
    """The expression that the text writes."""
    return eval(text, {"F": F, "_": _, "pa": pa, "dt": dt})


def evaluated(text: str, table: pa.Table, namespace: str) -> list[Any]:
    """The expression's value in each row."""
    answer = eval_underscore(parsed(text), input_table=table, namespace_name=namespace)
    ordered = answer.to_arrow().sort_by([("__index__0", "ascending")])
    return ordered.column("__value__").to_pylist()


def functions() -> dict[str, Any]:
    columns = {
        f"sl_values.{name}": pa.array([row[name] for row in ROWS], dtype)
        for name, dtype in COLUMNS.items()
    }
    table = pa.table({"sl_values.id": pa.array(range(len(ROWS)), pa.int64()), **columns})
    cases = [
        {"expression": text, "values": encoded(evaluated(text, table, "sl_values"))}
        for text in FUNCTIONS
    ]
    rows = [{name: encoded(row[name]) for name in COLUMNS} for row in ROWS]
    return {"rows": rows, "cases": cases}


def owners() -> pa.Table:
    """One row an owner, its events nested; the last one has none."""
    fields = [("sl_event.id", pa.int64())]
    fields += [(f"sl_event.{name}", dtype) for name, dtype in EVENT_COLUMNS.items()]
    groups: dict[int, list[Any]] = {owner: [] for owner in range(max_owner() + 2)}
    for number, event in enumerate(EVENTS):
        nested = {f"sl_event.{name}": event[name] for name in EVENT_COLUMNS}
        groups[event["owner_id"]].append({"sl_event.id": number, **nested})
    nested_type = pa.large_list(pa.struct(fields))
    events = pa.array(list(groups.values()), nested_type)
    return pa.table({"sl_owner.id": pa.array(groups, pa.int64()), "sl_owner.events": events})


def max_owner() -> int:
    return max(event["owner_id"] for event in EVENTS)


def grouped(text: str) -> list[Any]:
    """By chalkdf's own grouping, for what the expression evaluator does not know yet."""
    columns = {
        name: pa.array([event[name] for event in EVENTS], dtype)
        for name, dtype in EVENT_COLUMNS.items()
    }
    frame = DataFrame.from_arrow(pa.table(columns))
    answer = frame.agg(["owner_id"], parsed(text).alias("v")).to_arrow()
    held = dict(zip(answer["owner_id"].to_pylist(), answer["v"].to_pylist(), strict=True))
    return [held.get(owner) for owner in range(max_owner() + 1)]


def aggregations() -> dict[str, Any]:
    table = owners()
    cases: list[dict[str, Any]] = []
    for text, by_group in AGGREGATIONS:
        if by_group is None:
            values = evaluated(text, table, "sl_owner")
            cases.append({"expression": text, "source": "evaluator", "values": encoded(values)})
        else:
            # Its grouping leaves out owners without events, and fills in nothing for nulls.
            filled = [EMPTY[text] if value is None else value for value in grouped(by_group)]
            values = [*filled, EMPTY[text]]
            cases.append({"expression": text, "source": "grouping", "values": encoded(values)})
    for text, values in DOCUMENTED:
        cases.append({"expression": text, "source": "documented", "values": encoded(values)})
    events = [{name: encoded(event[name]) for name in EVENT_COLUMNS} for event in EVENTS]
    return {"events": events, "cases": cases}


# What Chalk's own table says stands for an aggregation of no rows.
EMPTY: dict[str, Any] = {text: None for text, by_group in AGGREGATIONS if by_group is not None}
EMPTY |= {text: 0 for text in EMPTY if "count_distinct" in text}
EMPTY |= {text: False for text in EMPTY if text.endswith(".any()")}
EMPTY |= {text: True for text in EMPTY if text.endswith(".all()")}


def write(name: str, golden: dict[str, Any]) -> None:
    """One line a row and a case, so that a change is one line of a diff."""
    parts = [
        f'"{key}": [\n' + ",\n".join(json.dumps(v, ensure_ascii=False) for v in values) + "\n]"
        for key, values in golden.items()
    ]
    (UNIT / name).write_text("{" + ",\n".join(parts) + "}\n")


if __name__ == "__main__":
    assert chalk_classes_golden.Values
    write("golden_functions.json", functions())
    write("golden_aggregations.json", aggregations())
