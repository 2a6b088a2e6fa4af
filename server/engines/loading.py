"""Loading a model with the engine that ``ENGINE`` names.

``ENGINE=auto`` selects the first engine that can serve the model, in the order of :data:`ENGINE_FLAVORS`.
"""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path

from server.engines.companion import FLAVORS
from server.errors import CompanionRefused, ForkcastError, LoadError, ModelError, first_line
from server.inference.examples import logged_example, made_up_examples
from server.inference.model import Engine, KnowsValues, Model
from server.model_store.copies import Copy
from server.model_store.mlmodel import MLmodel
from server.model_store.versions import version_hint
from server.settings import is_model_name

logger = logging.getLogger(__name__)

# Each engine, which is a module of this package, with the MLflow flavor that it reads. Compiled engines, which read
# companions stored inside the model, come first.
ENGINE_FLAVORS = (
    ("forest", FLAVORS["forest"]),
    ("onnx", FLAVORS["onnx"]),
    ("sklearn", "sklearn"),
    ("pyfunc", "python_function"),
)


def load_model(copy: Copy, engine: str, kernel_cache: Path | None = None, name: str | None = None) -> Model:
    """Load the model of ``copy`` with an engine; ``kernel_cache`` is the folder of compiled kernels.

    Clients call the model ``name``, or by default its :func:`client_name`.

    Raises:
        ModelError: the model cannot be served.
    """
    mlmodel = MLmodel.read(copy.model_folder)
    loaded = load_engine(mlmodel, engine, kernel_cache)
    schema = loaded.schema
    example = logged_example(mlmodel.example, schema)
    known_values = loaded.known_values() if isinstance(loaded, KnowsValues) else {}
    candidates = (example,) if example else made_up_examples(schema, known_values)
    return Model(
        name=name or client_name(copy, mlmodel),
        version=copy.version,
        uri=copy.uri,
        digest=copy.digest,
        trained_on=mlmodel.trained_on,
        stale=copy.stale,
        schema=schema,
        engine=loaded,
        example=candidates[0],
        example_candidates=candidates,
        needs=copy.needs,
        example_is_synthetic=example is None,
        registered_name=copy.registered_name,
        parameters=mlmodel.parameters,
    )


def client_name(copy: Copy, mlmodel: MLmodel) -> str:
    """Return what clients call a model by default: its registered name, that of its MLmodel file, or its folder's."""
    if copy.registered:
        return copy.name
    return mlmodel.name or (copy.name if is_model_name(copy.name) else "model")


def load_engine(mlmodel: MLmodel, choice: str, kernel_cache: Path | None = None) -> Engine:
    """Load the engine ``choice``, or with "auto" the first that can serve the model.

    Raises:
        ModelError: the model does not have the flavor that the engine reads, or the engine does not load.
    """
    if choice != "auto":
        return _load(_require_available(choice, mlmodel), mlmodel, kernel_cache)
    *compiled, last = suitable_engines(mlmodel)
    for name in compiled:
        try:
            return _load(name, mlmodel, kernel_cache)
        except CompanionRefused as error:
            logger.warning("%s; serving without it", error)
    return _load(last, mlmodel, kernel_cache)


def suitable_engines(mlmodel: MLmodel) -> list[str]:
    """Return the engines whose predictions are those of the model, the preferred one first.

    Raises:
        ModelError: no engine can serve the model.
    """
    # If a model was logged with another predict_fn than predict, only MLflow's wrapper calls that function.
    if mlmodel.flavors.get("python_function", {}).get("predict_fn", "predict") != "predict":
        return ["pyfunc"]
    return _available_engines(mlmodel)


def _available_engines(mlmodel: MLmodel) -> list[str]:
    available = [name for name, flavor in ENGINE_FLAVORS if flavor in mlmodel.flavors]
    if not available:
        served = ", ".join(flavor for _, flavor in ENGINE_FLAVORS)
        got = ", ".join(mlmodel.flavors) or "none"
        raise ModelError(f"the model has none of the flavors that can be served: expected one of {served}, got {got}")
    return available


def _require_available(choice: str, mlmodel: MLmodel) -> str:
    available = _available_engines(mlmodel)
    if choice in available:
        return choice
    hint = "; `make compile` adds it if the model can be compiled" if choice in FLAVORS else ""
    choices = ", ".join(["auto", *available])
    raise ModelError(f"ENGINE={choice!r} is not available for this model; available: {choices}{hint}")


def _load(name: str, mlmodel: MLmodel, kernel_cache: Path | None) -> Engine:
    # Imported here, so that the libraries of other engines are not loaded.
    module = import_module(f"server.engines.{name}")
    try:
        engine: Engine = module.load(mlmodel, kernel_cache)
    except LoadError as error:
        hint = version_hint(mlmodel.folder, mlmodel.flavors, name)
        # A missing file has nothing to do with versions.
        if hint is None or isinstance(error.__cause__, OSError):
            raise
        raise LoadError(f"{error}; {hint}") from error.__cause__
    except ForkcastError:
        raise
    except Exception as error:  # An attribute of a loaded estimator may raise anything.
        hint = version_hint(mlmodel.folder, mlmodel.flavors, name)
        reason = f"the model does not load with the engine {name}: {type(error).__name__}: {first_line(error)}"
        raise LoadError(f"{reason}; {hint}" if hint else reason) from error
    return engine
