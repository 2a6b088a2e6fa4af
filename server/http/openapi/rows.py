"""The schemas of one row, by name and as a list, which are made from the model's columns.

Client generators name a schema after its component, and number those without a name (``Value1``, ``Value2``). So every
schema of a value with limits is a component: ``ElevationValue`` for a column with a range of its own, ``LongValue`` for
all columns that only their type limits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from server.http.openapi.parts import any_of, array_schema, column_schema, ref, value_schema
from server.inference.columns import Column
from server.inference.model import Model


def schemas(model: Model) -> dict[str, Any]:
    """Return the schemas of a row by name, of a row as a list, of either, and of the values in the list."""
    columns, example = model.schema.columns, model.example
    values = [value_schema(column) for column in columns]
    names = _value_names(columns)
    return {
        "Features": {**by_name(columns), "additionalProperties": False, "examples": [example]},
        "FeatureList": {
            **_list([ref(name) if name else value for name, value in zip(names, values, strict=True)]),
            "examples": [[example.get(column.name) for column in columns]],
        },
        "Row": any_of(ref("Features"), ref("FeatureList")),
        **{name: value for name, value in zip(names, values, strict=True) if name},
    }


def by_name(columns: Sequence[Column]) -> dict[str, Any]:
    """Return the schema of a row as an object, which allows other properties."""
    return {
        "type": "object",
        "properties": {column.name: column_schema(column) for column in columns},
        "required": [column.name for column in columns if column.required],
    }


def _list(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    length = {"minItems": len(values), "maxItems": len(values)}
    if all(value == values[0] for value in values):
        return array_schema(values[0], **length)
    # Not `items: false`, which openapi-python-client cannot read; `maxItems` says the same.
    return {"type": "array", "prefixItems": list(values), **length}


def _value_names(columns: Sequence[Column]) -> list[str]:
    """Return the name of the component with a column's values, for each column; "" if its values have no limits."""
    types = [column.type.title() if column.required else f"Optional{column.type.title()}" for column in columns]
    used = {name.lower() for name in types}
    names: list[str] = []
    for position, (column, type_name) in enumerate(zip(columns, types, strict=True)):
        if "minimum" not in value_schema(column):
            names.append("")
        elif not column.has_range:
            names.append(f"{type_name}Value")
        else:
            words = _words(column.name)
            name = words if words and words.lower() not in used else f"Column{position}"
            used.add(name.lower())
            names.append(f"{name}Value")
    return names


def _words(name: str) -> str:
    """Return a column's name as a generator would write a class, or "" if that is not possible in ASCII."""
    words = re.findall(r"[A-Za-z0-9]+", name) if name.isascii() else []
    joined = "".join(word[0].upper() + word[1:] for word in words)
    return joined if joined[:1].isalpha() else ""
