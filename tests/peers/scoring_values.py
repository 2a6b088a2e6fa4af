"""Valid and invalid requests of MLflow's scoring protocol: the values of each column type."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.peers.exchange import Case
from tests.peers.models import MIXED, SEVERAL
from tests.peers.scoring import json_case, lists_by_column, raw_case, split

# JSON texts, each tried in every column type.
_JSON_TEXTS = (
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


def _single_value(column_type: str, text: str) -> Case:
    body = json.dumps({"dataframe_records": [{**MIXED, _COLUMNS[column_type]: "<value>"}]}).replace('"<value>"', text)
    return raw_case(f"{column_type} {text}", body.encode(), model="mixed")


def _optional() -> Iterator[Case]:
    without = {name: value for name, value in MIXED.items() if name != "age"}
    yield json_case("optional column missing in records", {"dataframe_records": [without]}, "mixed")
    yield json_case("optional column missing in split", {"dataframe_split": split([without])}, "mixed")
    yield json_case("optional column missing in inputs", {"inputs": lists_by_column([without])}, "mixed")
    yield json_case("optional column missing in one record", {"dataframe_records": [MIXED, without]}, "mixed")
    yield json_case("optional column missing in one instance", {"instances": [MIXED, without]}, "mixed")
    yield json_case(
        "optional column null in one record", {"dataframe_records": [MIXED, {**MIXED, "age": None}]}, "mixed"
    )


def _two_values() -> Iterator[Case]:
    """Yield requests with two values in a column, because pandas chooses a type for the whole column."""
    for column_type, first, second in (
        ("long", 2596, 2596.5), ("long", 2596, "2596"), ("long", 2596, None), ("long", 2596, True), ("integer", 3, 3.5),
        ("integer", 3, 2**31), ("double", 0.5, None), ("double", 0.5, "0.5"), ("double", 1, 0.5),
        ("boolean", True, 1), ("boolean", True, None), ("boolean", True, "true"), ("boolean", True, 0.5),
        ("string", "red", 1), ("string", "red", None), ("string", "red", True),
    ):  # fmt: skip
        rows = [{**MIXED, _COLUMNS[column_type]: value} for value in (first, second)]
        name = f"{column_type} {first!r} and {second!r}"
        yield json_case(name, {"dataframe_records": rows}, "mixed")
        yield json_case(f"{name} as inputs", {"inputs": lists_by_column(rows)}, "mixed")


def _beyond_float32() -> Iterator[Case]:
    """Yield a value that the column accepts and the model does not, because its trees use float32."""
    yield json_case("double 1e39 for a forest", {"dataframe_records": [{**SEVERAL, "x": 1e39}]}, "several")


def cases() -> list[Case]:
    """Return all requests of this module."""
    return [
        *(_single_value(column_type, text) for column_type in _COLUMNS for text in _JSON_TEXTS),
        *_optional(),
        *_two_values(),
        *_beyond_float32(),
    ]
