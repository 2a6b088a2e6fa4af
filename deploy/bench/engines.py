"""`make bench-engines`: one forest, every engine that could compute it, each in a process of its own.

The forest is the large one (`make train FOREST=large`), fitted on four fifths of the rows that COVERTYPE_PATH names.
Each engine predicts the other rows in random order, in one thread. ``forest``, ``onnx`` and ``sklearn`` are the
server's own and take rows as a request brings them, one-hot step included; Treelite and oneDAL get that step's output.
"""

from __future__ import annotations

import json
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from deploy.bench.table import markdown
from deploy.errors import CommandError
from deploy.options import ModelOptions
from deploy.stack.machine import Machine
from deploy.stack.paths import ROOT
from server.errors import StartError

ENGINES = ("forest", "onnx", "treelite", "onedal", "sklearn")
BATCHES = (1, 8, 64, 256)
_SECONDS = 2.0

Predict = Callable[[int, int], Any]


def main() -> int:
    """Prepare, measure each engine, and print the table; status 1 with one line where something is missing."""
    if len(sys.argv) == 3:
        print(json.dumps(_measure(sys.argv[1], Path(sys.argv[2]))))
        return 0
    try:
        with tempfile.TemporaryDirectory() as scratch:
            _prepare(ModelOptions.read(os.environ), Path(scratch))
            rows = [_child(engine, Path(scratch)) for engine in ("nothing", *ENGINES)]
    except (CommandError, StartError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{Machine.current().description}\n\n{_table(rows)}")
    return 0


def _prepare(options: ModelOptions, folder: Path) -> None:
    """Fit the forest, and keep it in each engine's own form."""
    import treelite  # noqa: PLC0415  (as the other imports here: only this process may hold them)

    try:
        from sklearnex.ensemble import RandomForestClassifier as OneDal  # noqa: PLC0415
    except ModuleNotFoundError:
        raise CommandError(f"oneDAL (scikit-learn-intelex) is not available on {platform.machine()}") from None

    from deploy.models.compile import companion  # noqa: PLC0415
    from deploy.models.training import package  # noqa: PLC0415
    from deploy.models.training.covertype import load  # noqa: PLC0415
    from deploy.models.training.pipeline import fit, large_forest  # noqa: PLC0415
    from server.engines.sklearn import SklearnEngine  # noqa: PLC0415
    from server.inference.rows import Rows  # noqa: PLC0415
    from server.model_store.mlmodel import MLmodel  # noqa: PLC0415

    _tell("fitting")
    data = load(options.covertype_path, ROOT / "var" / "data")
    fitted = fit(data, large_forest())
    package.save(fitted, data, folder / "model")
    order = np.random.default_rng(0).permutation(len(fitted.x_held))
    np.save(folder / "rows.npy", fitted.x_held[order])
    columns, forest = fitted.pipeline.named_steps["columns"], fitted.pipeline.named_steps["forest"]
    np.save(folder / "features.npy", columns.transform(fitted.x_held[order]).astype(np.float32))
    _tell("converting to ONNX")
    schema = MLmodel.read(folder / "model").schema
    checked = Rows(fitted.x_held[:1000], np.empty((1000, 0), dtype=np.object_))
    reference = SklearnEngine(fitted.pipeline, schema)
    companion.add_onnx(folder / "model", reference, schema, lambda _: checked, "held-out rows")
    _tell("converting to Treelite")
    treelite.sklearn.import_model(forest).serialize(str(folder / "treelite.bin"))
    _tell("fitting with oneDAL, which predicts only with what it has fitted")
    one_dal = OneDal(**{**forest.get_params(), "n_jobs": None}).fit(
        columns.transform(data.x).astype(np.float32), data.y
    )
    (folder / "onedal.pickle").write_bytes(pickle.dumps(one_dal))


def _child(engine: str, folder: Path) -> dict[str, Any]:
    """Measure in a process of its own."""
    _tell(f"measuring {engine}")
    command = [sys.executable, "-W", "ignore", "-m", "deploy.bench.engines", engine, str(folder)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True, check=False)
    if ran.returncode:
        raise CommandError(f"{engine} could not be measured; its reason is above")
    result: dict[str, Any] = json.loads(ran.stdout)
    return result


def _measure(engine: str, folder: Path) -> dict[str, Any]:
    """Microseconds a row for each size of batch; seconds to load; megabytes of this process."""
    rows = np.load(folder / "rows.npy", mmap_mode="r")
    started = time.perf_counter()
    predict = _LOADERS[engine](folder)
    predict(0, 1)
    loaded = time.perf_counter() - started
    times = {str(batch): _microseconds(predict, batch, len(rows)) for batch in BATCHES}
    memory = psutil.Process().memory_full_info()
    return {"engine": engine, "start": loaded, "own": memory.uss / 1e6, "total": memory.rss / 1e6, "times": times}


def _microseconds(predict: Predict, batch: int, rows: int) -> float:
    """A row's share of a call, the median over parts of the time: other work on the machine comes and goes."""
    parts: list[float] = []
    ends, start = time.perf_counter() + _SECONDS, 0
    while time.perf_counter() < ends:
        calls, began = 0, time.perf_counter()
        while time.perf_counter() - began < _SECONDS / 20:
            start = start + batch if start + 2 * batch <= rows else 0
            predict(start, start + batch)
            calls += 1
        parts.append((time.perf_counter() - began) / (calls * batch))
    return 1e6 * float(np.median(parts))


def _own(engine: str, folder: Path) -> Predict:
    from server.engines.loading import load_model  # noqa: PLC0415
    from server.inference.rows import Rows  # noqa: PLC0415
    from server.model_store.copies import Copy  # noqa: PLC0415

    model = load_model(Copy(folder / "model", "covertype", "1", "", ""), engine, folder / "kernels")
    rows = np.load(folder / "rows.npy", mmap_mode="r")
    none = np.empty((BATCHES[-1], 0), dtype=np.object_)
    return lambda start, stop: model.engine.predict(Rows(np.array(rows[start:stop]), none[: stop - start]))


def _treelite(folder: Path) -> Predict:
    import treelite  # noqa: PLC0415

    model, features = treelite.Model.deserialize(str(folder / "treelite.bin")), _features(folder)
    return lambda start, stop: treelite.gtil.predict(model, np.array(features[start:stop]), nthread=1)


def _one_dal(folder: Path) -> Predict:
    model, features = pickle.loads((folder / "onedal.pickle").read_bytes()), _features(folder)  # noqa: S301
    model.n_jobs = 1
    return lambda start, stop: model.predict_proba(np.array(features[start:stop]))


def _nothing(folder: Path) -> Predict:
    """NumPy alone: what to subtract."""
    features = _features(folder)
    return lambda start, stop: np.array(features[start:stop])


def _features(folder: Path) -> NDArray[np.float32]:
    features: NDArray[np.float32] = np.load(folder / "features.npy", mmap_mode="r")
    return features


_LOADERS: Mapping[str, Callable[[Path], Predict]] = {
    "forest": lambda folder: _own("forest", folder),
    "onnx": lambda folder: _own("onnx", folder),
    "sklearn": lambda folder: _own("sklearn", folder),
    "treelite": _treelite,
    "onedal": _one_dal,
    "nothing": _nothing,
}


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    nothing, *engines = rows
    head = ["engine", *(f"us a row, batch {batch}" for batch in BATCHES), "start s", "own MB", "with shared MB"]
    lines = [
        [
            row["engine"],
            *(f"{row['times'][str(batch)]:.1f}" for batch in BATCHES),
            f"{row['start']:.2f}",
            f"{row['own'] - nothing['own']:.0f}",
            f"{row['total'] - nothing['total']:.0f}",
        ]
        for row in engines
    ]
    return markdown(head, lines)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
