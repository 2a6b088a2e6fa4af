"""A companion made, checked, and written into a model's folder beside the flavor that tells of it.

What the server reads of it is in :mod:`server.engines.companion`.
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
from server.engines.companion import FLAVORS, LAYOUT, model_digest
from server.engines.packed import PackedForest
from server.engines.sklearn import SklearnEngine
from server.errors import ModelError, first_line
from server.inference.rows import Rows
from server.inference.schema import InputSchema
from server.model_store.digest import folder_digest
from server.model_store.mlmodel import MLmodel

# The rows to compare on, which may depend on where the trees split.
Rowmaker = Callable[[PackedForest | None], Rows]


def add_forest(folder: Path, reference: SklearnEngine, schema: InputSchema, rows: Rowmaker, against: str) -> Check:
    """Pack the trees of ``reference`` into the model in ``folder``, once they agree on ``rows``, told as ``against``.

    Raises:
        NotCompilable: the model, or a step of it, has no packed form.
        ModelError: the packed trees do not agree with the model, or do not run here.
    """
    packed = pack(reference.estimator, schema)
    check = _compared(reference, forest.make(packed, schema), rows(packed), against)
    if not check.passed:
        raise _disagrees("forest", check)
    _write(folder, "forest", packed.save, check)
    return check


def add_onnx(folder: Path, reference: SklearnEngine, schema: InputSchema, rows: Rowmaker, against: str) -> Check:
    """Convert ``reference`` to ONNX, likewise: in 64 bits, or in 32 where that has no form, or does not agree.

    Raises:
        NotCompilable: the model has no form in ONNX, or the extra ``onnx`` is not installed.
        ModelError: none of its forms agrees with the model, or can be compared with it.
    """
    try:
        from deploy.models.compile.onnx_conversion import conversions  # noqa: PLC0415  (optional packages)
    except ImportError as error:
        how = "locally `make .venv/bin/.onnx`, in containers EXTRAS=onnx"
        raise NotCompilable(f"to convert it takes optional packages ({error}): {how}") from None
    for converted in conversions(reference.estimator, schema):
        check = _compared(reference, converted.engine(schema), rows(None), against)
        if check.passed:
            _write(folder, "onnx", converted.save, check)
            return check
    raise _disagrees("onnx", check)


def _compared(reference: SklearnEngine, compiled: Compiled, rows: Rows, against: str) -> Check:
    try:
        return compare(reference, compiled, rows, against)
    except Exception as error:  # scikit-learn's, most often: rows that the model does not take
        reason = first_line(error)
        raise ModelError(f"the model cannot be compared on {against}: {reason}") from error


def _disagrees(engine: str, check: Check) -> ModelError:
    return ModelError(f"compiled for the engine {engine}, the model does not agree with itself: {check}")


def _write(folder: Path, engine: str, save: Callable[[Path], None], check: Check) -> None:
    """Let ``save`` write the companion's files, in place of older ones, and record the check that it passed."""
    data = folder / engine
    shutil.rmtree(data, ignore_errors=True)
    save(data)
    model = Model.load(str(folder))
    model.add_flavor(
        FLAVORS[engine],
        layout=LAYOUT,
        data=engine,
        digest=folder_digest(data),
        model_digest=model_digest(MLmodel.read(folder)),
        check=check.to_json(),
    )
    model.save(str(folder / "MLmodel"))
