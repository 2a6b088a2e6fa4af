"""``python -m deploy.models.compile.compile_model``: give the model that MODEL_URI names a compiled companion.

The companion is checked against the model. The model itself stays as it is: a registered one gets a new version, one in
a folder a folder beside it, one of a run a run of its own. The last line printed is the URI of the result.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Collection
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
    """Compile as the options say, tell what the check found on stdout, and return the URI of the compiled model.

    Raises:
        CommandError, StartError: in one line.
    """
    settings = options.settings
    beside = _beside(settings.model_uri)
    copy = resolve_in_child(options.environment)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        shutil.copytree(copy.model_folder, folder, ignore=shutil.ignore_patterns("registered_model_meta"))
        _compile(folder, copy, settings, options.data)
        if beside is None:
            # It imports all of MLflow: only after main() has set the variables that MLflow reads at its import.
            from deploy.models.registry import versions  # noqa: PLC0415

            return versions.publish_compiled(folder, copy, settings)
        _put(folder, beside)
        return str(beside)


def _compile(folder: Path, copy: Copy, settings: Settings, data: Path | None) -> None:
    """Add a companion to the copy of the model in ``folder``, for the engine that ENGINE names or the first possible.

    Raises:
        CommandError, StartError: there is none, or it does not agree with the model.
    """
    # They import MLflow and scikit-learn.
    from deploy.models.compile import companion, samples  # noqa: PLC0415
    from deploy.models.compile.features import NotCompilable  # noqa: PLC0415

    model, reference = _loaded(copy)
    given = samples.from_file(data, model.schema) if data else None

    def rows(forest: PackedForest | None) -> Rows:
        return given or samples.drawn(model.schema, model.schema.to_rows([model.example_row]), forest)

    against = f"file: {data.name}" if data else "the example, and rows drawn across what the model tells apart"
    ways = {"forest": companion.add_forest, "onnx": companion.add_onnx}
    reasons = []
    for engine, add in ways.items():
        if settings.engine not in ("auto", engine):
            continue
        try:
            check = add(folder, reference, model.schema, rows, against)
        except NotCompilable as error:
            reasons.append(f"{engine}: {error}")
        else:
            _say(f"compiled {model.name} version {model.version} for the engine {engine}; checked on {check}")
            return
    raise CommandError(f"{model.name} has no compiled form; {'; '.join(reasons) or _no_way(settings.engine, ways)}")


def _no_way(engine: str, ways: Collection[str]) -> str:
    return f"ENGINE={engine!r}: expected auto, {', '.join(ways)}"


def _loaded(copy: Copy) -> tuple[Model, SklearnEngine]:
    """The model as scikit-learn has it, which every compiled form is made from and compared with."""
    from server.engines.sklearn import SklearnEngine  # noqa: PLC0415

    if "sklearn" not in suitable_engines(MLmodel.read(copy.model_folder)):
        raise CommandError(f"{copy.name} has no compiled form: it has no scikit-learn flavor, or another predict_fn")
    model = load_model(copy, "sklearn")
    if not isinstance(model.engine, SklearnEngine):
        raise TypeError(f"the engine sklearn is a {type(model.engine).__name__}")
    return model, model.engine


def _put(folder: Path, target: Path) -> None:
    """Copy whole, or not at all."""
    draft = target.with_name(f".{target.name}-{os.getpid()}")
    try:
        shutil.copytree(folder, draft)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _beside(uri: str) -> Path | None:
    """Where the compiled form of a model in a folder goes; None for a model in a registry or a store."""
    folder = local_folder(uri)
    if folder is None:
        return None
    target = folder.resolve().with_name(f"{folder.resolve().name}-compiled")
    if target.exists():
        raise CommandError(f"{target} exists: the compiled model would go there; remove it or move it away")
    return target


def main() -> int:
    """Compile what this process's environment asks for; 0, or 1 after one line of why on stderr."""
    set_mlflow_variables()
    try:
        uri = compile_model(ModelOptions.read(os.environ))
        _say(f"to serve it: make up MODEL_URI={uri}")
        _say(uri)
    except (CommandError, StartError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f"error: cannot keep the compiled model: {error}", file=sys.stderr)
        return 1
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
