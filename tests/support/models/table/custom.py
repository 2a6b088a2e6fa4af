"""Custom models of MLflow (``PythonModel``): tensors, columns of lists and objects, parameters, or no signature."""

from __future__ import annotations

import base64
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
from sklearn.tree import DecisionTreeClassifier

from tests.support.models.table.case import REQUIREMENTS, Custom, Estimator, Row, Table, save_estimator
from tests.support.models.table.classifiers import FLOWERS, IRIS, NAMES, SPECIES, TEXT_AS_NUMBER

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's imports warn
    import mlflow.pyfunc
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import AnyType, Array, Map, Object, Property

FRAME_FORMS = ("dataframe_records", "dataframe_split")

TABLE = Table()


def save(
    path: Path, model: Any, inputs: Sequence[Any] | None, params: ParamSchema | None = None, **options: Any
) -> None:
    """Save a custom model with a signature of these inputs, or without any."""
    signature = ModelSignature(Schema(list(inputs)), None, params) if inputs else False
    # Pickled by value, since the process that loads the model cannot import the tests.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    mlflow.pyfunc.save_model(path, python_model=model, signature=signature, pip_requirements=REQUIREMENTS, **options)


def save_columns(path: Path, model: Any, *columns: ColSpec, **options: Any) -> Custom:
    """Save a custom model with a signature of columns."""
    save(path, model, columns, **options)
    return Custom(model)


class Sizes(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A model that returns a DataFrame of two columns."""

    def predict(self, context: object, model_input: pd.DataFrame, params: object = None) -> Any:
        width, height = model_input["width"], model_input["height"]
        return pd.DataFrame({"area": width * height, "format": np.where(width > height, "wide", "tall")})


@TABLE.case(
    rows=[{"width": 2.0, "height": 3.0}, {"width": 3.0, "height": 2.0}, {"width": 0.5, "height": 4.0}],
    answers=[{"area": 6.0, "format": "tall"}, {"area": 6.0, "format": "wide"}, {"area": 2.0, "format": "tall"}],
    bad=[{"width": "wide", "height": 3.0}, {"width": None, "height": 3.0}, {"width": 2.0}],
    engine="pyfunc",
)
def frame_of_outputs(path: Path) -> Custom:
    return save_columns(path, Sizes(), ColSpec("double", "width"), ColSpec("double", "height"))


class Brightest(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A model of images, whose answer is the number of the brightest pixel."""

    def predict(self, context: object, model_input: np.ndarray, params: object = None) -> Any:
        return model_input.reshape(len(model_input), -1).argmax(axis=1)


@TABLE.case(
    rows=[[[9.0, 1.0], [1.0, 1.0]], [[1.0, 1.5], [1, 1]], [[0.0, 0.0], [0.0, 0.5]]],
    answers=[0, 1, 3],
    bad=[
        [9.0, 1.0, 1.0, 1.0],
        [[9.0, 1.0], [1.0]],
        [[9.0, 1.0, 0.0], [1.0, 1.0, 0.0]],
        [[9.0, "bright"], [1.0, 1.0]],
        [[[9.0], [1.0]], [[1.0], [1.0]]],
        9.0,
    ],
    engine="pyfunc",
    forms=("inputs", "instances"),
)
def images(path: Path) -> Custom:
    """Save a model of a tensor of rank 3."""
    save(path, Brightest(), [TensorSpec(np.dtype(np.float32), (-1, 2, 2))])
    return Custom(Brightest(), lambda rows: np.array(rows, np.float32))


class Weighing(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A model of two named tensors, one of rank 2 and one of rank 1."""

    # The input is a dict of arrays; MLflow would print a warning about that type hint.
    def predict(self, context: object, model_input: np.ndarray, params: object = None) -> Any:
        return model_input["position"].sum(axis=1) * model_input["weight"]


def _named_tensors(rows: Sequence[Row]) -> Mapping[str, Any]:
    return {
        "position": np.array([row["position"] for row in rows], np.float32),
        "weight": np.array([row["weight"] for row in rows], np.int64),
    }


@TABLE.case(
    rows=[
        {"position": [1.0, 2.0], "weight": 1},
        {"position": [1.0, 2.0], "weight": 2},
        {"position": [0.5, 0.0], "weight": 3},
    ],
    answers=[3.0, 6.0, 1.5],
    bad=[
        {"position": [1.0, 2.0]},
        {"position": [1.0], "weight": 1},
        {"position": 1.0, "weight": 1},
        {"position": [1.0, "two"], "weight": 1},
        {"position": [1.0, 2.0], "weight": [1, 2]},
    ],
    converted=[{"position": [1.0, 2.0], "weight": 1.5}],
    engine="pyfunc",
    forms=("inputs", "instances"),
)
def named_tensors(path: Path) -> Custom:
    float32, int64 = np.dtype(np.float32), np.dtype(np.int64)
    save(path, Weighing(), [TensorSpec(float32, (-1, 2), "position"), TensorSpec(int64, (-1,), "weight")])
    return Custom(Weighing(), _named_tensors)


class Total(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A model of a column of lists."""

    def predict(self, context: object, model_input: pd.DataFrame, params: object = None) -> Any:
        return [float(sum(amounts)) for amounts in model_input["amounts"]]


@TABLE.case(
    rows=[{"amounts": [1.0, 2.5]}, {"amounts": [4.0]}, {"amounts": []}],
    answers=[3.5, 4.0, 0.0],
    bad=[{"amounts": 1.0}, {"amounts": None}, {"amounts": ["one"]}, {"amounts": [[1.0]]}, {"amounts": [1.0, None]}, {}],
    engine="pyfunc",
    forms=FRAME_FORMS,
    json_columns=["amounts"],
    slow=False,
)
def column_of_arrays(path: Path) -> Custom:
    return save_columns(path, Total(), ColSpec(Array(DataType.double), "amounts"))


class Greeting(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A model of a column of objects."""

    def predict(self, context: object, model_input: pd.DataFrame, params: object = None) -> Any:
        return [f"{person['name']} ({person.get('age', '?')})" for person in model_input["person"]]


@TABLE.case(
    rows=[{"person": {"name": "Ada", "age": 36}}, {"person": {"name": "Alan"}}, {"person": {"age": 5, "name": "Zoë"}}],
    answers=["Ada (36)", "Alan (?)", "Zoë (5)"],
    bad=[
        {"person": "Ada"},
        {"person": None},
        {"person": {"age": 36}},
        {"person": {"name": 36}},
        {"person": {"name": "Ada", "age": "old"}},
        {"person": {"name": "Ada", "born": 1815}},
        {"person": [{"name": "Ada"}]},
    ],
    engine="pyfunc",
    forms=FRAME_FORMS,
    json_columns=["person"],
)
def column_of_objects(path: Path) -> Custom:
    properties = [Property("name", DataType.string), Property("age", DataType.long, required=False)]
    return save_columns(path, Greeting(), ColSpec(Object(properties), "person"))


class Largest(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A model of a column of maps, whose answer is the key of the largest value."""

    def predict(self, context: object, model_input: pd.DataFrame, params: object = None) -> Any:
        return [max(votes, key=votes.get) for votes in model_input["votes"]]


@TABLE.case(
    rows=[{"votes": {"a": 3, "b": 1}}, {"votes": {"a": 3, "b": 5}}, {"votes": {"c": 1}}],
    answers=["a", "b", "c"],
    bad=[{"votes": ["a"]}, {"votes": {"a": "three"}}, {"votes": {"a": None}}, {"votes": 3}, {"votes": None}],
    engine="pyfunc",
    forms=FRAME_FORMS,
    json_columns=["votes"],
)
def column_of_maps(path: Path) -> Custom:
    return save_columns(path, Largest(), ColSpec(Map(DataType.long), "votes"))


class TypeName(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A model of a column of any JSON value, whose answer is the value's type."""

    def predict(self, context: object, model_input: pd.DataFrame, params: object = None) -> Any:
        return [type(value).__name__ for value in model_input["value"]]


@TABLE.case(
    rows=[{"value": "text"}, {"value": [1, "two"]}, {"value": {"a": {"b": 3}}}],
    answers=["str", "list", "dict"],
    bad=[{"other": "text", "more": 1}],
    engine="pyfunc",
    forms=FRAME_FORMS,
    json_columns=["value"],
)
def column_of_any_type(path: Path) -> Custom:
    return save_columns(path, TypeName(), ColSpec(AnyType(), "value"))


class Length(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A model of a column of bytes."""

    def predict(self, context: object, model_input: pd.DataFrame, params: object = None) -> Any:
        return [len(blob) + sum(blob) for blob in model_input["blob"]]


def _base64(blob: bytes) -> dict[str, str]:
    return {"blob": base64.b64encode(blob).decode()}


@TABLE.case(
    rows=[_base64(b"\0\0"), _base64(b"\xff"), _base64(b"")],
    answers=[2, 256, 0],
    bad=[{"blob": "no base64!"}, {"blob": "AAA"}, {"blob": None}, {"blob": 5}, {"blob": ["AA==", "AA=="]}],
    engine="pyfunc",
    forms=FRAME_FORMS,
)
def column_of_bytes(path: Path) -> Custom:
    model = Length()
    save_columns(path, model, ColSpec(DataType.binary, "blob"))
    return Custom(model, lambda rows: pd.DataFrame({"blob": [base64.b64decode(row["blob"]) for row in rows]}))


class Scaling(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A model with parameters."""

    def predict(self, context: object, model_input: pd.DataFrame, params: Any = None) -> Any:
        params = {"factor": 2.0, "units": ["m"], **(params or {})}
        return [f"{value * params['factor']} {'/'.join(params['units'])}" for value in model_input["x"]]


@TABLE.case(
    rows=[{"x": 1.0}, {"x": 1.5}, {"x": -2.0}],
    answers=["2.0 m", "3.0 m", "-4.0 m"],
    bad=[{"x": "one"}, {"x": None}, {}],
    engine="pyfunc",
    variants=[
        ({"factor": 10.0}, ["10.0 m", "15.0 m", "-20.0 m"]),
        ({"factor": 3, "units": ["km", "h"]}, ["3.0 km/h", "4.5 km/h", "-6.0 km/h"]),
        ({}, ["2.0 m", "3.0 m", "-4.0 m"]),
    ],
    bad_params=[{"factor": "ten"}, {"factor": [10.0]}, {"units": "m"}, {"units": [1]}, {"factor": None}],
    slow=False,
)
def parameters(path: Path) -> Custom:
    params = ParamSchema(
        [ParamSpec("factor", DataType.double, 2.0), ParamSpec("units", DataType.string, ["m"], shape=(-1,))]
    )
    return save_columns(path, Scaling(), ColSpec("double", "x"), params=params)


@TABLE.case(
    FLOWERS,
    NAMES,
    [TEXT_AS_NUMBER],
    variants=[({"verbose": True}, NAMES)],
    bad_params=[{"verbose": "yes"}],
)
def parameters_of_an_estimator(path: Path) -> Estimator:
    """Save an estimator with a parameter in its signature, which MLflow checks and scikit-learn never gets."""
    tree = DecisionTreeClassifier(random_state=0).fit(IRIS, SPECIES)
    signature = infer_signature(IRIS, SPECIES, {"verbose": False})
    return save_estimator(path, tree, IRIS, signature=signature)


class Adding(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A model of two numbers."""

    def predict(self, context: object, model_input: pd.DataFrame, params: object = None) -> Any:
        return (model_input["a"] + model_input["b"]).to_numpy()


ADDENDS = [{"a": 1.0, "b": 2.0}, {"a": 3.5, "b": 4.0}, {"a": -1.0, "b": 1.0}]


@TABLE.case(ADDENDS, [3.0, 7.5, 0.0], [{"a": 1.0}], engine="pyfunc", forms=FRAME_FORMS)
def unsigned_with_an_example(path: Path) -> Custom:
    save(path, Adding(), None, input_example=pd.DataFrame(ADDENDS[:1]))
    return Custom(Adding())


@TABLE.case(
    ADDENDS, [3.0, 7.5, 0.0], [{"a": 1.0, "b": "two"}], engine="pyfunc", forms=FRAME_FORMS, has_working_example=False
)
def unsigned_without_an_example(path: Path) -> Custom:
    """Save a model of which nothing says what it takes."""
    save(path, Adding(), None)
    return Custom(Adding())


class Shouting(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A model whose signature is its type hint."""

    def predict(self, context: object, model_input: list[str], params: object = None) -> list[str]:
        return [text.upper() for text in model_input]


@TABLE.case(
    rows=["yes", "no", "maybe"],
    answers=["YES", "NO", "MAYBE"],
    bad=[None, ["yes", "no"]],
    engine="pyfunc",
    forms=("inputs",),
)
def type_hints(path: Path) -> Custom:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    mlflow.pyfunc.save_model(path, python_model=Shouting(), pip_requirements=REQUIREMENTS)
    return Custom(Shouting(), list)
