"""Requests of MLflow's scoring protocol, good and bad: the forms of a document."""

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


def posted(name: str, document: object, model: str = "covertype") -> Case:
    """A document as JSON."""
    return raw(name, json.dumps(document).encode(), JSON, model)


def raw(name: str, body: bytes, content_type: str | None = JSON, model: str = "covertype") -> Case:
    """A body as it is."""
    return Case(name, PATH, body, content_type, model)


def split(rows: list[Row]) -> dict[str, Any]:
    """The rows as ``DataFrame.to_dict(orient="split")`` writes them."""
    return {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}


def lists(rows: list[Row]) -> dict[str, Any]:
    """The rows as lists of values by column."""
    return {name: [row[name] for row in rows] for name in rows[0]}


_TWO = ROWS["covertype"]
_TABLE, _LISTS = split(_TWO), lists(_TWO)
_FIRST: list[Any] = _TABLE["data"][0]
_LESS = {name: value for name, value in COVERTYPE.items() if name != "slope"}
_MORE = {**COVERTYPE, "more": 1}


def _with_column(name: str) -> dict[str, Any]:
    return {"columns": [*_TABLE["columns"], name], "data": [[*row, 5] for row in _TABLE["data"]]}


_SPLITS: Mapping[str, object] = {
    "with index": {**_TABLE, "index": [7, 9]},
    "with a short index": {**_TABLE, "index": [7]},
    "without columns": {"data": _TABLE["data"]},
    "without data": {"columns": _TABLE["columns"]},
    "with no rows": {**_TABLE, "data": []},
    "with one short row": {**_TABLE, "data": [[1, 2], _FIRST]},
    "with all rows short": {**_TABLE, "data": [[1, 2]]},
    "with a long row": {**_TABLE, "data": [[*_FIRST, 1]]},
    "with an unknown key": {**_TABLE, "more": 1},
    "with flat data": {**_TABLE, "data": _FIRST},
    "with a column twice": _with_column("slope"),
    "with numbered columns": {**_TABLE, "columns": list(range(12))},
    "with an unknown unicode column": _with_column("größe 高"),
    "without one column": split([_LESS]),
    "as text": json.dumps(_TABLE),
    "as list": [_TABLE],
    "as null": None,
}
_RECORDS: Mapping[str, object] = {
    "without one column": [_LESS],
    "one without a column": [COVERTYPE, _LESS],
    "one with an extra column": [COVERTYPE, _MORE],
    "empty": [],
    "of nothing": [{}],
    "one of nothing": [COVERTYPE, {}],
    "as one record": COVERTYPE,
    "as lists by column": _LISTS,
    "of lists": _TABLE["data"],
    "of numbers": [1, 2],
    "of nulls": [None],
    "as text": json.dumps(_TWO),
}
# Under both names.
_EITHER: Mapping[str, object] = {
    "lists by column": _LISTS,
    "one record": COVERTYPE,
    "records": _TWO,
    "records, one without a column": [COVERTYPE, _LESS],
    "records, one with an extra column": [COVERTYPE, _MORE],
    "bare lists": _TABLE["data"],
    "one bare list": _FIRST,
    "lists of lists by column": {name: [[value]] for name, value in COVERTYPE.items()},
    "lists of unequal lengths": {**_LISTS, "slope": [1]},
    "lists without one column": lists([_LESS]),
    "lists with an extra column": lists([_MORE]),
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
    "unknown key": {"data": _TWO},
    "unknown key beside": {"dataframe_records": _TWO, "signature_name": "serving_default"},
    "two keys": {"dataframe_records": _TWO, "instances": _TWO},
    "two keys, one null": {"dataframe_records": _TWO, "instances": None},
    "key in capitals": {"Instances": _TWO},
    "chat messages": {"messages": [{"role": "user", "content": "hello"}]},
    "prompt": {"prompt": "hello"},
    "embeddings input": {"input": ["hello"]},
    "one bare record": COVERTYPE,
    "bare record list": _TWO,
    "params null": {"dataframe_records": _TWO, "params": None},
    "params empty": {"dataframe_records": _TWO, "params": {}},
    "params unknown": {"dataframe_records": _TWO, "params": {"temperature": 0.5}},
    "params list": {"dataframe_records": _TWO, "params": [1]},
    "params text": {"dataframe_records": _TWO, "params": "x"},
}


def _good(model: str) -> Iterator[Case]:
    rows = ROWS[model]
    turned = [dict(reversed(row.items())) for row in rows]
    yield posted(f"split {model}", {"dataframe_split": split(rows)}, model)
    yield posted(f"split in another order {model}", {"dataframe_split": split(turned)}, model)
    yield posted(f"records {model}", {"dataframe_records": rows}, model)
    yield posted(f"records in another order {model}", {"dataframe_records": [*rows, *turned]}, model)
    yield posted(f"instances as records {model}", {"instances": rows}, model)
    yield posted(f"inputs as lists by column {model}", {"inputs": lists(rows)}, model)
    yield posted(f"extra column {model}", {"dataframe_records": [{**row, "more": 1} for row in rows]}, model)
    yield posted(f"hundred records {model}", {"dataframe_records": rows[:1] * 100}, model)


def cases() -> Iterator[Case]:
    """All of them."""
    for model in ROWS:
        yield from _good(model)
    for name, document in _DOCUMENTS.items():
        yield posted(name, document)
    for name, data in _SPLITS.items():
        yield posted(f"split {name}", {"dataframe_split": data})
    for name, data in _RECORDS.items():
        yield posted(f"records {name}", {"dataframe_records": data})
    for key in ("instances", "inputs"):
        for name, data in _EITHER.items():
            yield posted(f"{key}: {name}", {key: data})
