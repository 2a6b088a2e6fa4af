"""Translation of a model's errors about the values of its rows into errors of the request."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from server.errors import Fault, InvalidRows, first_line
from server.inference.columns import show
from server.inference.rows import Rows
from server.inference.schema import InputSchema

# Messages of scikit-learn's check of arrays and of its encoders, which raise plain ValueError.
_VALUE_ERRORS = re.compile(r"Input (X )?contains (NaN|infinity)|Found unknown categor")
_NOT_A_NUMBER = re.compile(r"could not convert string to float: (?:np\.str_\()?(['\"])(.*)\1")
_UNKNOWN_CATEGORIES = re.compile(r"Found unknown categor\w+ \[(.*?)\]")
_TYPE_NAME = re.compile(r"'(int|float|bool|str|list|dict)'")
_MISSING_VALUE = re.compile(r"contains (NaN|infinity)|NoneType")
# Beyond this, scikit-learn calls a number infinite where it computes in 32 bits.
_FLOAT32 = float(np.finfo(np.float32).max)
# What Python, NumPy, pandas and scikit-learn raise for values of an unexpected type.
_TYPE_ERRORS = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError)


@contextmanager
def translated_row_errors(rows: Rows, schema: InputSchema, *, loose: bool = False) -> Iterator[None]:
    """Turn a model's error about a value of the rows into InvalidRows.

    The errors of scikit-learn's own checks are such errors. If the schema says too little about the values, or
    ``loose`` is set because the request has parameters, so are all errors that values of an unexpected type cause: the
    model has predicted its example, or else it would not be served.

    Raises:
        InvalidRows: the model does not accept a value of the rows.
    """
    try:
        yield
    except InvalidRows:
        raise
    except Exception as error:
        reason = first_line(error)
        is_value_error = isinstance(error, ValueError) and _VALUE_ERRORS.search(reason)
        is_loose = loose or schema.is_loose
        # MLflow raises MlflowException if the rows do not have the model's signature. It is not imported here.
        is_schema_error = type(error).__name__ == "MlflowException"
        if not (is_value_error or is_schema_error or (is_loose and isinstance(error, _TYPE_ERRORS))):
            raise
        raise _refusal(reason, rows, schema) from error


def _refusal(reason: str, rows: Rows, schema: InputSchema) -> InvalidRows:
    row, column = _locate(reason, rows, schema)
    where = "a value of the row" if column is None else f"the value of {column}"
    detail = f"the model does not accept {where}: {reason[:200]}"
    return InvalidRows(detail, [Fault(detail, "#")], row)


def _locate(reason: str, rows: Rows, schema: InputSchema) -> tuple[int | None, str | None]:
    """Return the index of the row and the name of the column that an error is about, as far as it tells."""
    if match := _NOT_A_NUMBER.search(reason):
        text = match[2]
        location = _find(rows, schema, lambda value: isinstance(value, str) and value == text)
    elif match := _UNKNOWN_CATEGORIES.search(reason):
        unknown = {text.strip("' \"") for text in re.split(r", |np\.\w+\(|\)", match[1])}
        location = _find(rows, schema, lambda value: str(value) in unknown)
    elif _MISSING_VALUE.search(reason):
        location = _find(rows, schema, _is_missing) or _find(rows, schema, _is_large)
    elif match := _TYPE_NAME.search(reason):
        type_name = match[1]
        location = _find(rows, schema, lambda value: type(value).__name__ == type_name)
    else:
        location = _find(rows, schema, lambda value: isinstance(value, list | dict)) if schema.is_loose else None
    if location is not None:
        return location
    return (0 if len(rows) == 1 else None), None


def _is_missing(value: object) -> bool:
    return value is None or bool(np.any(value != value))  # noqa: PLR0124  (NaN, also in an array)


def _is_large(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) > _FLOAT32


def _find(rows: Rows, schema: InputSchema, matches: Callable[[object], bool]) -> tuple[int, str] | None:
    numbers = [column for column in schema.columns if column.is_number]
    objects = [column for column in schema.columns if not column.is_number]
    for table, columns in ((rows.numbers, numbers), (rows.objects, objects)):
        for i, row in enumerate(table.tolist()):
            for column, value in zip(columns, row, strict=True):
                if matches(value):
                    return i, show(column.name)
    return None
