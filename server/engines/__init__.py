"""What computes predictions inside a worker: rows in, labels and confidences out. One engine a file.

``ENGINE=auto`` takes the first that the model can be served with, in the order of :data:`ORDER`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol

from server.errors import ModelError
from server.mlmodel import MLmodel
from server.rows import Prediction, Rows

# An engine's name is its module here and, in ORDER, stands beside the MLflow flavor that it reads. Compiled engines
# (forest, onnx) read companions stored inside the model and belong in front.
ORDER = (("sklearn", "sklearn"), ("pyfunc", "python_function"))


class Engine(Protocol):
    """A loaded model that predicts. Made in the master, called only in workers, by one thread at a time."""

    name: str

    def predict(self, rows: Rows) -> Prediction:
        """One label, and a confidence where there are probabilities, for each row."""
        ...


def load_engine(mlmodel: MLmodel, choice: str) -> Engine:
    """The engine that ``ENGINE`` names, or the first that suits the model.

    Raises:
        ModelError: the model has not what the engine reads, or it does not load.
    """
    suitable = [name for name, flavor in ORDER if flavor in mlmodel.flavors]
    if choice == "auto":
        # A model logged with another predict_fn answers by it, which only MLflow's own wrapper does.
        if mlmodel.flavors.get("python_function", {}).get("predict_fn", "predict") != "predict":
            suitable = ["pyfunc"]
        if not suitable:
            raise ModelError(f"the model has no flavor that is served, only {', '.join(mlmodel.flavors) or 'none'}")
        choice = suitable[0]
    elif choice not in suitable:
        expected = ", ".join(["auto", *suitable])
        raise ModelError(f"ENGINE={choice!r}: this model carries nothing for it; expected {expected}")
    # Imported here so that no other engine's libraries come into memory.
    engine: Engine = import_module(f"server.engines.{choice}").load(mlmodel)
    return engine
