"""The inference parameters that a model's signature declares, and the check of those in a request.

Source: https://mlflow.org/docs/latest/ml/model/signatures, "Model Signatures with Inference Params", and
``ParamSpec`` in mlflow/types/schema.py of MLflow 3.17.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from server.errors import Fault, ModelError
from server.inference.columns import Column, Policy, parse_column, show
from server.inference.conversions import ValueMismatch, convert
from server.inference.faults import invalid_rows, json_pointer


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter with its default; ``is_list`` is whether its value is a list of values of the column's type."""

    column: Column
    default: object
    is_list: bool = False

    @property
    def name(self) -> str:
        """The name of the parameter."""
        return self.column.name

    def parse(self, value: object) -> object:
        """Return the value that the model gets for a JSON value; null is passed on as None.

        Raises:
            ValueMismatch: the value does not have the parameter's type.
        """
        if not self.is_list:
            return self._parse_single(value)
        if not isinstance(value, list):
            raise ValueMismatch(f"must be a list, each item {self.column.expected}, got {show(value)}")
        items = []
        for i, item in enumerate(value):
            try:
                items.append(self._parse_single(item))
            except ValueMismatch as error:
                raise ValueMismatch(error.detail, (i, *error.path)) from None
        return items

    def _parse_single(self, value: object) -> object:
        column = self.column
        if value is None and column.type != "object":
            return None
        if column.is_integer and type(value) is float:  # MLflow converts whole numbers to fractions, not back
            raise ValueMismatch(f"must be {column.expected}, got {value}")
        converted = convert(column, value, Policy.STRICT)
        if column.type in ("float", "double"):
            return float(converted)  # type: ignore[arg-type]
        # MLflow passes times as datetime, which has no nanoseconds, and objects as they are.
        return converted.astype("datetime64[us]").item() if isinstance(converted, np.datetime64) else value


@dataclass(frozen=True, slots=True)
class Parameters:
    """All parameters of a model, in the order of its signature."""

    declared: tuple[Parameter, ...] = ()

    @classmethod
    def from_signature(cls, params: Sequence[Mapping[str, Any]] | None) -> Parameters:
        """Create the parameters of an MLflow signature's ``params``.

        Raises:
            ModelError: a parameter has a type that is not served.
        """
        declared = []
        for i, spec in enumerate(params or ()):
            if not isinstance(spec, Mapping):
                raise ModelError(f"the model's signature has the parameter {spec!r}; expected an object")
            column = parse_column(i, {**spec, "type": spec.get("type") or spec.get("dtype")}, {})
            if column.type == "long":  # a parameter is passed on as it is, and need not fit into float64
                column = replace(column, low=-(2**63), high=2**63 - 1)
            declared.append(Parameter(column, spec.get("default"), bool(spec.get("shape"))))
        return cls(tuple(declared))

    def parse(self, params: object, pointer: str, policy: Policy) -> tuple[tuple[str, object], ...]:
        """Return the parameters that a request sets, by name, in the order of the signature.

        ``params`` is the JSON value at ``pointer``, or None. Parameters that the model does not declare are refused
        under the strict policy, and ignored under the lenient one, as in MLflow's server.

        Raises:
            InvalidRows: a parameter is unknown or has the wrong type.
        """
        if params is None:
            return ()
        if not isinstance(params, dict):
            raise invalid_rows([Fault(f"must be an object of parameters by name, got {show(params)}", pointer)])
        faults, parsed = [], []
        for parameter in self.declared:
            if parameter.name in params:
                try:
                    parsed.append((parameter.name, parameter.parse(params[parameter.name])))
                except ValueMismatch as error:
                    faults.append(Fault(error.detail, json_pointer(pointer, parameter.name, *error.path)))
        if policy is Policy.STRICT:
            names = {parameter.name for parameter in self.declared}
            known = f"expected {', '.join(sorted(names))}" if names else "it has none"
            unknown = [name for name in params if name not in names]
            faults += [
                Fault(f"is not a parameter of this model; {known}", json_pointer(pointer, name)) for name in unknown
            ]
        if faults:
            raise invalid_rows(faults)
        return tuple(parsed)


NO_PARAMETERS = Parameters()
