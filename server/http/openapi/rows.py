"""The schemas of one row, by name and as a list, which are made from the model's columns.

Client generators name a schema after its component, and number those without a name (``Value1``, ``Value2``). So every
schema of a value with limits is a component: ``ElevationValue`` for a column with a range of its own, ``LongValue`` for
all columns that only their type limits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from server.http.openapi.parts import any_of, array_schema, column_schema, open_object_schema, ref, value_schema
from server.inference.columns import Column
from server.inference.model import Model
from server.inference.schema import Form, InputSchema

# Values that are a row by themselves; lists and objects are rows of another form.
_SINGLE_VALUE = {"type": ["string", "number", "boolean", "null"]}


def schemas(model: Model) -> dict[str, Any]:
    """Return the schemas of a row in each form that the model takes, and of the values in a list.

    ``Features`` is a row by name, ``FeatureList`` one as a list, ``FeatureValue`` the only value of a row, and ``Row``
    any of them.
    """
    schema = model.schema
    if schema.form is Form.RECORDS:
        names = {"not": {"enum": ["features", "instances"]}}
        return {"Features": {**by_name(schema), "propertyNames": names}, "Row": {}}
    forms = {"Features": {**by_name(schema), "additionalProperties": False}}
    values: dict[str, Any] = {}
    if not schema.is_nested:
        forms["FeatureList"], values = _list(schema.columns)
    if schema.takes_bare_values:
        untyped = schema.columns[0].type == "any"
        forms["FeatureValue"] = dict(_SINGLE_VALUE) if untyped else value_schema(schema.columns[0])
    listed = [model.example.get(name) for name in schema.names]
    examples = {"Features": model.example, "FeatureList": listed, "FeatureValue": listed[0]}
    return {
        **{name: {**form, "examples": [examples[name]]} for name, form in forms.items()},
        "Row": any_of(*map(ref, forms)),
        **values,
    }


def listed_row(schema: InputSchema) -> dict[str, Any]:
    """Return the schema of a row without names: a list of values, or the only value."""
    if schema.form is Form.RECORDS:
        return {}
    forms = {"FeatureList": not schema.is_nested, "FeatureValue": schema.takes_bare_values}
    return any_of(*(ref(name) for name, is_taken in forms.items() if is_taken))


def nested_values(schema: InputSchema) -> dict[str, dict[str, Any]]:
    """Return a reference to the component with a column's values, by name, for columns of lists or objects."""
    if schema.form is Form.RECORDS:
        return {}
    names = ["FeatureValue"] if schema.is_nested else _value_names(schema.columns)
    return {c.name: ref(name) for c, name in zip(schema.columns, names, strict=True) if _is_nested(value_schema(c))}


def by_name(schema: InputSchema, schema_of: Callable[[Column], Mapping[str, Any]] = column_schema) -> dict[str, Any]:
    """Return the schema of a row as an object, which allows other properties; ``schema_of`` is that of a column."""
    if schema.form is Form.RECORDS:
        return {**open_object_schema(), "properties": {}}
    return {
        "type": "object",
        "properties": {column.name: schema_of(column) for column in schema.columns},
        "required": [column.name for column in schema.columns if column.required],
    }


def _list(columns: Sequence[Column]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schema of a row as a list, and the components that it refers to."""
    names = _value_names(columns)
    schemas = [value_schema(column) for column in columns]
    values = [ref(name) if name else value for name, value in zip(names, schemas, strict=True)]
    components = {name: value for name, value in zip(names, schemas, strict=True) if name}
    length = {"minItems": len(values), "maxItems": len(values)}
    if all(value == values[0] for value in values):
        return array_schema(values[0], **length), components
    # Not `items: false`, which openapi-python-client cannot read; `maxItems` says the same.
    return {"type": "array", "prefixItems": values, **length}, components


def _value_names(columns: Sequence[Column]) -> list[str]:
    """Return the name of the component with a column's values, for each column; "" if its values have no limits.

    Columns with equal values may share a component; otherwise a column is named by its position if its name is taken.
    """
    names = [""] * len(columns)
    taken: dict[str, Mapping[str, Any]] = {}
    # The names of types come first, so that a column of that name does not take them.
    for has_own_name in (False, True):
        for position, column in enumerate(columns):
            value = value_schema(column)
            if has_own_name is not (column.has_range or _is_nested(value)) or not (has_own_name or "minimum" in value):
                continue
            name = _class_name(column.name) if has_own_name else _type_name(column)
            if not name or taken.setdefault(name.lower(), value) != value:
                name = f"Column{position}"
            names[position] = f"{name}Value"
    return names


def _is_nested(value: Mapping[str, Any]) -> bool:
    return not {"items", "properties", "additionalProperties"}.isdisjoint(value)


def _type_name(column: Column) -> str:
    name = column.type if column.dtype is None else column.dtype.name
    return name.title() if column.required else f"Optional{name.title()}"


def _class_name(name: str) -> str:
    """Return a column's name as a generator would write a class, or "" if that is not possible in ASCII."""
    parts = re.findall(r"[A-Za-z0-9]+", name) if name.isascii() else []
    joined = "".join(part[0].upper() + part[1:] for part in parts)
    return joined if joined[:1].isalpha() else ""
