"""Creation of a companion: compile the model, check the result, and write it with its flavor into the model's folder.

:mod:`server.engines.companion` is the reader of these files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from mlflow.models import Model

from deploy.models.compile.features import NotCompilable
from deploy.models.compile.packing import pack
from deploy.models.compile.parity import Check, Compiled, compare
from server.engines import forest
from server.engines.companion import FLAVORS, LAYOUT_VERSION, model_digest, record_of_inputs
from server.engines.packed import PackedForest
from server.engines.sklearn import SklearnEngine
from server.errors import ModelError, first_line
from server.inference.rows import Rows
from server.inference.schema import InputSchema
from server.model_store.digest import folder_digest
from server.model_store.mlmodel import MLmodel

# Returns the rows to compare on: for a packed forest, rows on both sides of its splits.
RowFactory = Callable[[PackedForest | None], Rows]


def add_forest(
    folder: Path, reference: SklearnEngine, schema: InputSchema, make_rows: RowFactory, rows_source: str
) -> Check:
    """Pack the trees of ``reference``, check them, and write them into the model in ``folder``.

    ``rows_source`` describes the rows that ``make_rows`` returns, for the record and for messages.

    Raises:
        NotCompilable: the model, or one of its steps, has no packed form.
        ModelError: the packed trees do not agree with the model, or do not run on this machine.
    """
    packed = pack(reference.estimator, schema)
    check = _check(reference, forest.create_engine(packed, schema), make_rows(packed), rows_source)
    if not check.passed:
        raise _disagreement("forest", check)
    _write(folder, "forest", packed.save, check, schema)
    return check


def add_onnx(
    folder: Path, reference: SklearnEngine, schema: InputSchema, make_rows: RowFactory, rows_source: str
) -> Check:
    """Convert ``reference`` to ONNX, check the result, and write it into the model in ``folder``.

    The conversion uses 64-bit floats; 32-bit floats if that is not possible or its results do not agree.
    ``rows_source`` describes the rows that ``make_rows`` returns, for the record and for messages.

    Raises:
        NotCompilable: the model cannot be converted, or the extra ``onnx`` is not installed.
        ModelError: no conversion agrees with the model, or can be compared with it.
    """
    try:
        from deploy.models.compile.onnx_conversion import conversions  # noqa: PLC0415  (optional packages)
    except ImportError as error:
        hint = "install them: locally `make .venv/bin/.onnx`, in containers EXTRAS=onnx"
        raise NotCompilable(f"the conversion needs optional packages ({error}); {hint}") from None
    for converted in conversions(reference.estimator, schema):
        check = _check(reference, converted.engine(schema), make_rows(None), rows_source)
        if check.passed:
            _write(folder, "onnx", converted.save, check, schema)
            return check
    raise _disagreement("onnx", check)


def _check(reference: SklearnEngine, compiled: Compiled, rows: Rows, rows_source: str) -> Check:
    try:
        return compare(reference, compiled, rows, rows_source)
    except Exception as error:  # Mostly scikit-learn's errors about rows that the model does not accept.
        reason = first_line(error)
        raise ModelError(f"the model cannot predict the rows of the check ({rows_source}): {reason}") from error


def _disagreement(engine: str, check: Check) -> ModelError:
    return ModelError(f"the form compiled for the engine {engine} does not agree with the model: {check}")


def _write(folder: Path, engine: str, save: Callable[[Path], None], check: Check, schema: InputSchema) -> None:
    """Replace the engine's companion by the files that ``save`` writes, and record the check that it passed."""
    data = folder / engine
    shutil.rmtree(data, ignore_errors=True)
    save(data)
    model = Model.load(str(folder))
    mlmodel = MLmodel.read(folder)
    inputs = {} if mlmodel.schema else {"inputs": record_of_inputs(schema)}
    model.add_flavor(
        FLAVORS[engine],
        layout=LAYOUT_VERSION,
        data=engine,
        digest=folder_digest(data),
        model_digest=model_digest(mlmodel),
        check=check.to_json(),
        **inputs,
    )
    model.save(str(folder / "MLmodel"))
