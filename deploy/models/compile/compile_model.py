"""``python -m deploy.models.compile.compile_model``: compile the model that MODEL_URI names.

The result is a copy of the model with a companion that was checked against it; the model itself does not change. The
copy of a registered model becomes its next version. The copy of a model in a folder is written to a folder beside it,
and that of a model of a run is logged to a new run. The last printed line is the URI of the copy.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.errors import CommandError
from deploy.models.registry.mlflow_variables import set_mlflow_variables
from deploy.options import ModelOptions
from server.engines.loading import load_model, suitable_engines
from server.engines.packed import PackedForest
from server.errors import StartError
from server.inference.model import Model
from server.inference.rows import Rows
from server.model_store.copies import Copy
from server.model_store.mlmodel import MLmodel
from server.model_store.resolve import local_folder, resolve_in_child
from server.settings import Settings

if TYPE_CHECKING:
    from server.engines.sklearn import SklearnEngine


def compile_model(options: ModelOptions) -> str:
    """Compile the model, print the result of the check, and return the URI of the compiled model.

    Raises:
        CommandError, StartError: the model cannot be found or compiled; the message is one line.
    """
    settings = options.settings
    target_folder = _target_folder(settings.model_uri)
    copy = resolve_in_child(options.environment)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        shutil.copytree(copy.model_folder, folder, ignore=shutil.ignore_patterns("registered_model_meta"))
        _compile(folder, copy, settings, options.data)
        if target_folder is None:
            # Imported here because it imports MLflow, which reads the variables that main() sets first.
            from deploy.models.registry import versions  # noqa: PLC0415

            return versions.publish_compiled(folder, copy, settings)
        _copy_atomically(folder, target_folder)
        return str(target_folder)


def _compile(folder: Path, copy: Copy, settings: Settings, data: Path | None) -> None:
    """Add a companion to the model's copy in ``folder``, for the engine that ENGINE names or the first possible one.

    Raises:
        CommandError, StartError: the model has no compiled form, or its compiled form does not agree with it.
    """
    # Imported here because they import MLflow, which reads the variables that main() sets first.
    from deploy.models.compile import companion, samples  # noqa: PLC0415
    from deploy.models.compile.features import NotCompilable  # noqa: PLC0415

    model, reference = _load_with_sklearn(copy)
    file_rows = samples.read_csv(data, model.schema) if data else None

    def make_rows(forest: PackedForest | None) -> Rows:
        return file_rows or samples.draw_rows(model.schema, model.schema.to_rows([model.example_row]), forest)

    rows_source = f"file: {data.name}" if data else "the example, and rows drawn at random around the model's splits"
    compilers = {"forest": companion.add_forest, "onnx": companion.add_onnx}
    reasons = []
    for engine, add_companion in compilers.items():
        if settings.engine not in ("auto", engine):
            continue
        try:
            check = add_companion(folder, reference, model.schema, make_rows, rows_source)
        except NotCompilable as error:
            reasons.append(f"{engine}: {error}")
        else:
            _print_now(f"compiled {model.name} version {model.version} for the engine {engine}; checked on {check}")
            return
    if not reasons:
        reasons = [f"ENGINE={settings.engine!r}: expected auto, {', '.join(compilers)}"]
    raise CommandError(f"{model.name} has no compiled form; {'; '.join(reasons)}")


def _load_with_sklearn(copy: Copy) -> tuple[Model, SklearnEngine]:
    """Load the model with the engine that every compiled form is made from and compared with.

    Raises:
        CommandError: the model has no scikit-learn flavor, or predicts with another function.
    """
    from server.engines.sklearn import SklearnEngine  # noqa: PLC0415

    if "sklearn" not in suitable_engines(MLmodel.read(copy.model_folder)):
        raise CommandError(
            f"{copy.name} has no compiled form: it has no scikit-learn flavor, or its predict_fn is not predict"
        )
    model = load_model(copy, "sklearn")
    if not isinstance(model.engine, SklearnEngine):
        raise TypeError(f"expected SklearnEngine for the engine sklearn, got {type(model.engine).__name__}")
    return model, model.engine


def _copy_atomically(folder: Path, target: Path) -> None:
    draft = target.with_name(f".{target.name}-{os.getpid()}")
    try:
        shutil.copytree(folder, draft)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _target_folder(uri: str) -> Path | None:
    """Return the folder for the compiled copy of a model in a folder; None for a model in a registry or a store.

    Raises:
        CommandError: the folder exists already.
    """
    folder = local_folder(uri)
    if folder is None:
        return None
    target = folder.resolve().with_name(f"{folder.resolve().name}-compiled")
    if target.exists():
        raise CommandError(f"{target} exists, and the compiled model would be written there: remove or rename it")
    return target


def main() -> int:
    """Compile the model of this process's environment; return 0, or 1 after printing the error as one line."""
    set_mlflow_variables()
    try:
        options = ModelOptions.read(os.environ)
        uri = compile_model(options)
        _print_now(f"to serve it: {_serving_commands(uri, options.settings.model_uri)}")
        _print_now(uri)
    except (CommandError, StartError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f"error: cannot keep the compiled model: {error}", file=sys.stderr)
        return 1
    return 0


def _serving_commands(uri: str, model_uri: str) -> str:
    """Return the commands that serve the compiled model ``uri``: a promotion if MODEL_URI names an alias or a stage."""
    # Imported here because it imports MLflow, which reads the variables that main() sets first.
    from deploy.models.registry.pointer import Pointer  # noqa: PLC0415

    up = f"make up MODEL_URI={uri}"
    try:
        Pointer.parse(model_uri)
    except CommandError:
        return up
    return f"make promote VERSION={uri.rpartition('/')[2]}, where {model_uri} is served; elsewhere {up}"


def _print_now(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
