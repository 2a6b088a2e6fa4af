"""Valid and invalid requests of MLflow's scoring protocol: the forms of a JSON document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.peers.exchange import JSON, Case
from tests.peers.models import COVERTYPE, MIXED, SEVERAL, Row

PATH = "/invocations"
ROWS: dict[str, list[Row]] = {
    "covertype": [COVERTYPE, {**COVERTYPE, "elevation": 3300, "wilderness_area": 3, "soil_type": 38}],
    "mixed": [MIXED, {**MIXED, "colour": "blue", "count": 3}],
    "several": [SEVERAL],
}


def json_case(name: str, document: object, model: str = "covertype") -> Case:
    """Return a request whose body is a document as JSON."""
    return raw_case(name, json.dumps(document).encode(), JSON, model)


def raw_case(name: str, body: bytes, content_type: str | None = JSON, model: str = "covertype") -> Case:
    """Return a request with any body."""
    return Case(name, PATH, body, content_type, model)


def split(rows: list[Row]) -> dict[str, Any]:
    """Return the rows in the form of ``DataFrame.to_dict(orient="split")``."""
    return {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}


def lists_by_column(rows: list[Row]) -> dict[str, Any]:
    """Return the rows as lists of values by column."""
    return {name: [row[name] for row in rows] for name in rows[0]}


_TWO_ROWS = ROWS["covertype"]
_TABLE, _LISTS = split(_TWO_ROWS), lists_by_column(_TWO_ROWS)
_FIRST_ROW: list[Any] = _TABLE["data"][0]
_WITHOUT_SLOPE = {name: value for name, value in COVERTYPE.items() if name != "slope"}
_WITH_EXTRA = {**COVERTYPE, "more": 1}


def _with_column(name: str) -> dict[str, Any]:
    return {"columns": [*_TABLE["columns"], name], "data": [[*row, 5] for row in _TABLE["data"]]}


_SPLITS: Mapping[str, object] = {
    "with index": {**_TABLE, "index": [7, 9]},
    "with a short index": {**_TABLE, "index": [7]},
    "without columns": {"data": _TABLE["data"]},
    "without data": {"columns": _TABLE["columns"]},
    "with no rows": {**_TABLE, "data": []},
    "with one short row": {**_TABLE, "data": [[1, 2], _FIRST_ROW]},
    "with all rows short": {**_TABLE, "data": [[1, 2]]},
    "with a long row": {**_TABLE, "data": [[*_FIRST_ROW, 1]]},
    "with an unknown key": {**_TABLE, "more": 1},
    "with flat data": {**_TABLE, "data": _FIRST_ROW},
    "with a column twice": _with_column("slope"),
    "with numbered columns": {**_TABLE, "columns": list(range(12))},
    "with an unknown unicode column": _with_column("größe 高"),
    "without one column": split([_WITHOUT_SLOPE]),
    "as text": json.dumps(_TABLE),
    "as list": [_TABLE],
    "as null": None,
}
_RECORDS: Mapping[str, object] = {
    "without one column": [_WITHOUT_SLOPE],
    "one without a column": [COVERTYPE, _WITHOUT_SLOPE],
    "one with an extra column": [COVERTYPE, _WITH_EXTRA],
    "empty": [],
    "of nothing": [{}],
    "one of nothing": [COVERTYPE, {}],
    "as one record": COVERTYPE,
    "as lists by column": _LISTS,
    "of lists": _TABLE["data"],
    "of numbers": [1, 2],
    "of nulls": [None],
    "as text": json.dumps(_TWO_ROWS),
}
# Values of both ``instances`` and ``inputs``.
_INSTANCES_OR_INPUTS: Mapping[str, object] = {
    "lists by column": _LISTS,
    "one record": COVERTYPE,
    "records": _TWO_ROWS,
    "records, one without a column": [COVERTYPE, _WITHOUT_SLOPE],
    "records, one with an extra column": [COVERTYPE, _WITH_EXTRA],
    "bare lists": _TABLE["data"],
    "one bare list": _FIRST_ROW,
    "lists of lists by column": {name: [[value]] for name, value in COVERTYPE.items()},
    "lists of unequal lengths": {**_LISTS, "slope": [1]},
    "lists without one column": lists_by_column([_WITHOUT_SLOPE]),
    "lists with an extra column": lists_by_column([_WITH_EXTRA]),
    "lists, some of them values": {**COVERTYPE, "slope": [3]},
    "empty lists by column": {name: [] for name in COVERTYPE},
    "an empty list": [],
    "an empty object": {},
    "a number": 1,
    "text": "2596",
    "null": None,
}
_DOCUMENTS: Mapping[str, object] = {
    "no key": {},
    "unknown key": {"data": _TWO_ROWS},
    "unknown key beside": {"dataframe_records": _TWO_ROWS, "signature_name": "serving_default"},
    "two keys": {"dataframe_records": _TWO_ROWS, "instances": _TWO_ROWS},
    "two keys, one null": {"dataframe_records": _TWO_ROWS, "instances": None},
    "key in capitals": {"Instances": _TWO_ROWS},
    "chat messages": {"messages": [{"role": "user", "content": "hello"}]},
    "prompt": {"prompt": "hello"},
    "embeddings input": {"input": ["hello"]},
    "one bare record": COVERTYPE,
    "bare record list": _TWO_ROWS,
    "params null": {"dataframe_records": _TWO_ROWS, "params": None},
    "params empty": {"dataframe_records": _TWO_ROWS, "params": {}},
    "params unknown": {"dataframe_records": _TWO_ROWS, "params": {"temperature": 0.5}},
    "params list": {"dataframe_records": _TWO_ROWS, "params": [1]},
    "params text": {"dataframe_records": _TWO_ROWS, "params": "x"},
}


def _valid(model: str) -> Iterator[Case]:
    rows = ROWS[model]
    reordered = [dict(reversed(row.items())) for row in rows]
    yield json_case(f"split {model}", {"dataframe_split": split(rows)}, model)
    yield json_case(f"split in another order {model}", {"dataframe_split": split(reordered)}, model)
    yield json_case(f"records {model}", {"dataframe_records": rows}, model)
    yield json_case(f"records in another order {model}", {"dataframe_records": [*rows, *reordered]}, model)
    yield json_case(f"instances as records {model}", {"instances": rows}, model)
    yield json_case(f"inputs as lists by column {model}", {"inputs": lists_by_column(rows)}, model)
    yield json_case(f"extra column {model}", {"dataframe_records": [{**row, "more": 1} for row in rows]}, model)
    yield json_case(f"hundred records {model}", {"dataframe_records": rows[:1] * 100}, model)


def cases() -> Iterator[Case]:
    """Yield all requests of this module."""
    for model in ROWS:
        yield from _valid(model)
    for name, document in _DOCUMENTS.items():
        yield json_case(name, document)
    for name, data in _SPLITS.items():
        yield json_case(f"split {name}", {"dataframe_split": data})
    for name, data in _RECORDS.items():
        yield json_case(f"records {name}", {"dataframe_records": data})
    for key in ("instances", "inputs"):
        for name, data in _INSTANCES_OR_INPUTS.items():
            yield json_case(f"{key}: {name}", {key: data})
