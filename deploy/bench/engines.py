"""`make bench-engines`: the speed and memory of several engines on one random forest, each in its own process.

The forest is the large one (`make train FOREST=large`), fitted on four fifths of the rows that COVERTYPE_PATH names.
Each engine predicts the other rows in random order, in one thread. ``forest``, ``onnx`` and ``sklearn`` are the
server's engines and include the one-hot encoding of a request's rows; Treelite and oneDAL get encoded rows.
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
# The time for which each engine predicts with each batch size.
_MEASURING_SECONDS = 2.0

# The process that predicts nothing: its memory is subtracted from that of the engines.
_BASELINE = "baseline"

# Predicts the rows from a start to a stop index.
Predict = Callable[[int, int], Any]


def main() -> int:
    """Fit the forest, measure each engine and print the table; return the exit status, 1 after an error of one line.

    With two arguments, an engine and a folder, measure this engine and print the result as JSON.
    """
    if len(sys.argv) == 3:
        print(json.dumps(_measure(sys.argv[1], Path(sys.argv[2]))))
        return 0
    try:
        with tempfile.TemporaryDirectory() as scratch:
            _prepare(ModelOptions.read(os.environ), Path(scratch))
            rows = [_measure_in_child(engine, Path(scratch)) for engine in (_BASELINE, *ENGINES)]
    except (CommandError, StartError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{Machine.current().description}\n\n{_table(rows)}")
    return 0


def _prepare(options: ModelOptions, folder: Path) -> None:
    """Fit the forest and save it in the format of each engine."""
    import treelite  # noqa: PLC0415  (like the other imports here: they must not add to the memory of measured processes)

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

    _log("fitting the forest")
    data = load(options.covertype_path, ROOT / "var" / "data")
    fitted = fit(data, large_forest())
    package.save(fitted, data, folder / "model")
    order = np.random.default_rng(0).permutation(len(fitted.x_held))
    np.save(folder / "rows.npy", fitted.x_held[order])
    columns, forest = fitted.pipeline.named_steps["columns"], fitted.pipeline.named_steps["forest"]
    np.save(folder / "features.npy", columns.transform(fitted.x_held[order]).astype(np.float32))
    _log("converting to ONNX")
    schema = MLmodel.read(folder / "model").require_schema()
    checked = Rows(fitted.x_held[:1000], np.empty((1000, 0), dtype=np.object_))
    reference = SklearnEngine(fitted.pipeline, schema)
    companion.add_onnx(folder / "model", reference, schema, lambda _: checked, "held-out rows")
    _log("converting to Treelite")
    treelite.sklearn.import_model(forest).serialize(str(folder / "treelite.bin"))
    _log("fitting the forest again with oneDAL, which cannot import one")
    one_dal = OneDal(**{**forest.get_params(), "n_jobs": None}).fit(
        columns.transform(data.x).astype(np.float32), data.y
    )
    (folder / "onedal.pickle").write_bytes(pickle.dumps(one_dal))


def _measure_in_child(engine: str, folder: Path) -> dict[str, Any]:
    _log(f"measuring {engine}")
    command = [sys.executable, "-W", "ignore", "-m", "deploy.bench.engines", engine, str(folder)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True, check=False)
    if ran.returncode:
        raise CommandError(f"cannot measure {engine}: see its error above")
    result: dict[str, Any] = json.loads(ran.stdout)
    return result


def _measure(engine: str, folder: Path) -> dict[str, Any]:
    """Return microseconds per row by batch size, seconds to load, and megabytes of this process."""
    rows = np.load(folder / "rows.npy", mmap_mode="r")
    started = time.perf_counter()
    predict = _LOADERS[engine](folder)
    predict(0, 1)
    loaded = time.perf_counter() - started
    times = {str(batch): _microseconds(predict, batch, len(rows)) for batch in BATCHES}
    memory = psutil.Process().memory_full_info()
    return {"engine": engine, "start": loaded, "own": memory.uss / 1e6, "total": memory.rss / 1e6, "times": times}


def _microseconds(predict: Predict, batch: int, rows: int) -> float:
    """Return the time per row: the median of 20 intervals, since other work on the machine disturbs some of them."""
    interval_means: list[float] = []
    end, start = time.perf_counter() + _MEASURING_SECONDS, 0
    while time.perf_counter() < end:
        calls, interval_start = 0, time.perf_counter()
        while time.perf_counter() - interval_start < _MEASURING_SECONDS / 20:
            start = start + batch if start + 2 * batch <= rows else 0
            predict(start, start + batch)
            calls += 1
        interval_means.append((time.perf_counter() - interval_start) / (calls * batch))
    return 1e6 * float(np.median(interval_means))


def _load_own_engine(engine: str, folder: Path) -> Predict:
    from server.engines.loading import load_model  # noqa: PLC0415
    from server.inference.rows import Rows  # noqa: PLC0415
    from server.model_store.copies import Copy  # noqa: PLC0415

    model = load_model(Copy(folder / "model", "covertype", "1", "", ""), engine, folder / "kernels")
    rows = np.load(folder / "rows.npy", mmap_mode="r")
    no_strings = np.empty((BATCHES[-1], 0), dtype=np.object_)
    return lambda start, stop: model.engine.predict(Rows(np.array(rows[start:stop]), no_strings[: stop - start]))


def _load_treelite(folder: Path) -> Predict:
    import treelite  # noqa: PLC0415

    model, features = treelite.Model.deserialize(str(folder / "treelite.bin")), _load_features(folder)
    return lambda start, stop: treelite.gtil.predict(model, np.array(features[start:stop]), nthread=1)


def _load_one_dal(folder: Path) -> Predict:
    model, features = pickle.loads((folder / "onedal.pickle").read_bytes()), _load_features(folder)  # noqa: S301
    model.n_jobs = 1
    return lambda start, stop: model.predict_proba(np.array(features[start:stop]))


def _load_baseline(folder: Path) -> Predict:
    features = _load_features(folder)
    return lambda start, stop: np.array(features[start:stop])


def _load_features(folder: Path) -> NDArray[np.float32]:
    features: NDArray[np.float32] = np.load(folder / "features.npy", mmap_mode="r")
    return features


_LOADERS: Mapping[str, Callable[[Path], Predict]] = {
    "forest": lambda folder: _load_own_engine("forest", folder),
    "onnx": lambda folder: _load_own_engine("onnx", folder),
    "sklearn": lambda folder: _load_own_engine("sklearn", folder),
    "treelite": _load_treelite,
    "onedal": _load_one_dal,
    _BASELINE: _load_baseline,
}


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    baseline, *engines = rows
    header = ["engine", *(f"us per row, batch {batch}" for batch in BATCHES), "start s", "own MB", "with shared MB"]
    lines = [
        [
            row["engine"],
            *(f"{row['times'][str(batch)]:.1f}" for batch in BATCHES),
            f"{row['start']:.2f}",
            f"{row['own'] - baseline['own']:.0f}",
            f"{row['total'] - baseline['total']:.0f}",
        ]
        for row in engines
    ]
    return markdown(header, lines)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
