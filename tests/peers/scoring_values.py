"""Requests of MLflow's scoring protocol, good and bad: the values of each type of column."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.peers.exchange import Case
from tests.peers.models import MIXED, SEVERAL
from tests.peers.scoring import lists, posted, raw, split

# JSON texts, in every type of column.
_TEXTS = (
    "null", "true", "false", "0", "1", "-1", "2", "3.0", "2596.5", "1e3", '"2596"', '" 7 "', '"2.5"', '"1e3"', '"0x10"',
    '"1_000"', '"true"', '"False"', '"abc"', '""', '"nan"', '"inf"', '"größe 高"', "[]", "[1]", "{}",
    "2147483647", "2147483648", "-2147483649", "9007199254740993", "9223372036854775807", "9223372036854775808",
    "18446744073709551616", "1e39", "1e400", "NaN", "Infinity", "-Infinity",
)  # fmt: skip
_COLUMNS = {
    "string": "colour",
    "integer": "count",
    "long": "total",
    "float": "height",
    "double": "weight",
    "boolean": "fragile",
    "optional double": "age",
}


def _one_value(kind: str, text: str) -> Case:
    body = json.dumps({"dataframe_records": [{**MIXED, _COLUMNS[kind]: "<value>"}]}).replace('"<value>"', text)
    return raw(f"{kind} {text}", body.encode(), model="mixed")


def _optional() -> Iterator[Case]:
    without = {name: value for name, value in MIXED.items() if name != "age"}
    yield posted("optional column missing in records", {"dataframe_records": [without]}, "mixed")
    yield posted("optional column missing in split", {"dataframe_split": split([without])}, "mixed")
    yield posted("optional column missing in inputs", {"inputs": lists([without])}, "mixed")
    yield posted("optional column missing in one record", {"dataframe_records": [MIXED, without]}, "mixed")
    yield posted("optional column missing in one instance", {"instances": [MIXED, without]}, "mixed")
    yield posted("optional column null in one record", {"dataframe_records": [MIXED, {**MIXED, "age": None}]}, "mixed")


def _together() -> Iterator[Case]:
    """One value decides what pandas makes of its whole column."""
    for kind, one, other in (
        ("long", 2596, 2596.5), ("long", 2596, "2596"), ("long", 2596, None), ("long", 2596, True), ("integer", 3, 3.5),
        ("integer", 3, 2**31), ("double", 0.5, None), ("double", 0.5, "0.5"), ("double", 1, 0.5),
        ("boolean", True, 1), ("boolean", True, None), ("boolean", True, "true"), ("boolean", True, 0.5),
        ("string", "red", 1), ("string", "red", None), ("string", "red", True),
    ):  # fmt: skip
        rows = [{**MIXED, _COLUMNS[kind]: value} for value in (one, other)]
        yield posted(f"{kind} {one!r} and {other!r}", {"dataframe_records": rows}, "mixed")
        yield posted(f"{kind} {one!r} and {other!r} as inputs", {"inputs": lists(rows)}, "mixed")


def _beyond() -> Iterator[Case]:
    """What a model itself does not take: a forest computes with 32 bits."""
    yield posted("double 1e39 for a forest", {"dataframe_records": [{**SEVERAL, "x": 1e39}]}, "several")


def cases() -> list[Case]:
    """All of them."""
    return [*(_one_value(kind, text) for kind in _COLUMNS for text in _TEXTS), *_optional(), *_together(), *_beyond()]
