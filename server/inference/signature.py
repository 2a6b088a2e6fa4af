"""The input schema that an MLflow signature describes, or without one a fitted estimator or an example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from server.errors import ModelError
from server.inference.columns import Column, parse_column, tensor_column
from server.inference.schema import Form, InputSchema


def schema_from_signature(
    inputs: Sequence[Mapping[str, Any]],
    ranges: Mapping[str, Any],
    observed: Mapping[str, Any] | None = None,
    *,
    type_hint: bool = False,
) -> InputSchema:
    """Create the schema of an MLflow signature's ``inputs`` and the ranges ``{name: [low, high]}`` of the metadata.

    ``ranges`` are enforced; ``observed`` are those of the training data, which refuse no value. ``type_hint`` says that
    the signature was made from the type hint of ``predict``, so that the model takes a list of values.

    Raises:
        ModelError: a column has a type that is not served, or a range is malformed.
    """
    observed = {} if observed is None else observed
    for noun, limits in (("ranges", ranges), ("observed ranges", observed)):
        if not isinstance(limits, Mapping):
            raise ModelError(f"the model's metadata has the {noun} {limits!r}; expected {{name: [low, high]}}")
    schema = _tensor_schema(inputs) if inputs[0].get("type") == "tensor" else None
    if schema is None:
        columns = tuple(parse_column(i, spec, ranges, observed) for i, spec in enumerate(inputs))
        is_list = type_hint and len(columns) == 1 and "name" not in inputs[0]
        # MLflow checks the values of a type hint itself: a property of a class may have a default.
        columns = tuple(column.opened() for column in columns) if is_list else columns
        schema = InputSchema(columns, form=Form.LIST if is_list else Form.FRAME)
    if len(set(schema.names)) < len(schema.names):
        raise ModelError("the model's signature names a column twice; expected every name once")
    if unknown := sorted((set(ranges) | set(observed)) - set(schema.names)):
        raise ModelError(f"the model's metadata has a range for {unknown[0]!r}, which is not one of its columns")
    return schema


def _tensor_schema(inputs: Sequence[Mapping[str, Any]]) -> InputSchema:
    """Return the schema of tensors: one without a name, or several with names. The first dimension counts the rows."""
    tensors = [_dtype_and_row_shape(spec) for spec in inputs]
    if len(inputs) > 1 or inputs[0].get("name") is not None:
        names = [str(spec.get("name", i)) for i, spec in enumerate(inputs)]
        columns = [tensor_column(name, dtype, shape) for name, (dtype, shape) in zip(names, tensors, strict=True)]
        return InputSchema(tuple(columns), form=Form.TENSORS)
    dtype, shape = tensors[0]
    if len(shape) == 1 and shape[0] > 0:
        return InputSchema(tuple(tensor_column(f"x{i}", dtype) for i in range(shape[0])), form=Form.ARRAY)
    return InputSchema((tensor_column("x0", dtype, shape),), form=Form.ARRAY, is_flat=not shape)


def _dtype_and_row_shape(spec: Mapping[str, Any]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    tensor = spec.get("tensor-spec")
    try:
        dtype = np.dtype(tensor["dtype"])  # type: ignore[index]
        _, *shape = (int(size) for size in tensor["shape"])  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        raise ModelError(f"the model's signature has the tensor {tensor!r}; expected a dtype and a shape") from None
    return dtype, tuple(shape)


def schema_of_names(names: Sequence[object]) -> InputSchema:
    """Return the schema of a model that was fitted on a DataFrame and has no signature: columns without types."""
    return InputSchema(tuple(Column(str(name), "any") for name in names))


def schema_of_width(width: int) -> InputSchema:
    """Return the schema of a model that was fitted on an array and has no signature: columns x0, x1, .. without types.

    These are scikit-learn's own names for the columns of an array.
    """
    return InputSchema(tuple(Column(f"x{i}", "any") for i in range(width)), form=Form.ARRAY)


def schema_of_estimator(estimator: Any) -> InputSchema:
    """Return the schema of a fitted estimator without a signature.

    An estimator that counts no columns, such as a pipeline that begins with a text vectorizer, takes one value per row.
    """
    names = getattr(estimator, "feature_names_in_", None)
    if names is not None:
        return schema_of_names(list(names))
    width = getattr(estimator, "n_features_in_", None)
    if width is not None:
        return schema_of_width(int(width))
    return InputSchema((Column("x0", "any"),), form=Form.ARRAY, is_flat=True)


def schema_of_example(example: object) -> InputSchema:
    """Return the schema of a model of which only an example is known: a row, or None."""
    if isinstance(example, dict):
        return schema_of_names(list(example))
    if isinstance(example, list):
        return schema_of_width(len(example))
    return RECORDS


# A model of which nothing is known: each row is any JSON value.
RECORDS = InputSchema((Column("row", "any"),), form=Form.RECORDS)
