"""Examples of a model's rows: the one that it was logged with, or rows made up from its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from server.errors import InvalidRows
from server.inference.columns import Column, tensor_column
from server.inference.schema import Form, InputSchema

Example = dict[str, object]

# A column without a type gets a number, because most models take numbers.
_TYPICAL_VALUES: Mapping[str, object] = {
    "any": 0.0,
    "string": "string",
    "boolean": False,
    "datetime": "2024-01-31T12:00:00",
    "binary": "",
}


def logged_example(example: object, schema: InputSchema) -> Example | None:
    """Return the first row that the model was logged with, by name, if it is a valid row, else None."""
    if example is None:
        return None
    if schema.form is Form.RECORDS:
        return {schema.names[0]: example}
    if not isinstance(example, dict) or (schema.takes_bare_values and schema.names[0] not in example):
        is_row = isinstance(example, list) and not (schema.takes_bare_values and schema.is_nested)
        values: Sequence[object] = example if is_row else [example]  # type: ignore[assignment]
        if len(values) != len(schema.columns):
            return None
        example = dict(zip(schema.names, values, strict=True))
    try:
        schema.parse(example, 1)
    except InvalidRows:
        return None
    return example


def made_up_examples(schema: InputSchema, known_values: Mapping[str, object]) -> tuple[Example, ...]:
    """Return rows that the model may accept, the most likely first.

    ``known_values`` are values by column that the model was fitted on, such as a category. Where neither they nor a
    type tell what a column takes, it gets a number in the first row and text in the second. A model that takes any
    value as a row gets an object, too: of a model of which nothing is known, it makes a DataFrame.
    """
    typical = {c.name: known_values.get(c.name, _typical_value(c)) for c in schema.columns}
    try:
        schema.parse(typical, 1)
    except InvalidRows:  # a known value that the signature does not allow
        typical = {column.name: _typical_value(column) for column in schema.columns}
    untyped = [column.name for column in schema.columns if column.type == "any" and column.name not in known_values]
    if not untyped:
        return (typical,)
    rows: tuple[Example, ...] = (typical, typical | dict.fromkeys(untyped, "string"))
    if schema.takes_bare_values and schema.form is not Form.FRAME:
        rows += ({schema.names[0]: {"x0": 0.0} if schema.form is Form.RECORDS else {}},)
    return rows


def _typical_value(column: Column) -> object:
    """Return a made-up JSON value for a column, which the model may still refuse, as an unknown category."""
    match column.type:
        case "array":
            return [] if column.items is None else [_typical_value(column.items)]
        case "map":
            return {} if column.items is None else {"key": _typical_value(column.items)}
        case "object":
            return {inner.name: _typical_value(inner) for inner in column.properties if inner.required}
        case "tensor":
            value = _typical_value(tensor_column(column.name, np.dtype(column.dtype)))
            return np.full([max(size, 1) for size in column.shape], value).tolist()
        case type_name if type_name in _TYPICAL_VALUES:
            return _TYPICAL_VALUES[type_name]
    low, high = column.usual_range or (0.0, 0.0)
    middle = (low + high) / 2
    return int(np.floor(middle)) if column.is_integer else middle
