"""Tests of the packed forest and its engine, whose outputs are bit-identical to scikit-learn's."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor

from deploy.models.compile.packing import pack, pack_trees
from server.engines import forest as forest_module
from server.engines.packed import Feature, PackedForest
from server.errors import InvalidRows
from server.inference.rows import Prediction, Rows
from tests.support.models.forests import (
    Floats,
    around_splits,
    assert_same,
    double_columns,
    engine_of,
    numeric_rows,
    rows_of,
    schema_of,
    trees_of,
    with_thresholds,
)

RNG = np.random.default_rng(0)
X: Floats = RNG.normal(size=(300, 5)) * [1, 10, 100, 0.01, 1]
X[:, 4] = np.round(X[:, 4])
SCORE: Floats = X @ [1, 0.1, -0.01, 30, 0.5] + RNG.normal(size=300)
THREE_CLASSES = np.digitize(SCORE, [-0.7, 0.7])
TWO_CLASSES = (SCORE > 0).astype(int)
NAMES = np.array(["fir", "pine", "aspen"])[THREE_CLASSES]


def forest(seed: int = 0, **options: Any) -> RandomForestClassifier:
    return RandomForestClassifier(**{"n_estimators": 8, "random_state": seed, **options})


MODELS: dict[str, tuple[Any, Any]] = {
    "random forest": (forest(), THREE_CLASSES),
    "random forest, regression": (RandomForestRegressor(8, random_state=0), SCORE),
    "extra trees": (ExtraTreesClassifier(8, random_state=0), THREE_CLASSES),
    "extra trees, regression": (ExtraTreesRegressor(8, random_state=0), SCORE),
    "tree": (DecisionTreeClassifier(random_state=0), THREE_CLASSES),
    "tree, regression": (DecisionTreeRegressor(random_state=0), SCORE),
    "extra tree": (ExtraTreeClassifier(random_state=0), THREE_CLASSES),
    "extra tree, regression": (ExtraTreeRegressor(random_state=0), SCORE),
    "single leaf": (DecisionTreeClassifier(max_depth=1, min_samples_leaf=200), THREE_CLASSES),
    "single leaf, regression": (DecisionTreeRegressor(min_samples_leaf=200), SCORE),
    "single leaves and trees": (forest(min_samples_leaf=120, max_features=1), TWO_CLASSES),
    "two classes": (forest(), TWO_CLASSES),
    "one class": (forest(), np.full(300, 7)),
    "thirty classes": (forest(max_depth=6), np.arange(300) % 30),
    "sparse classes": (forest(), np.array([3, 700, -5])[THREE_CLASSES]),
    "negative classes": (forest(), -THREE_CLASSES),
    "names": (forest(), NAMES),
    "names as objects": (forest(), NAMES.astype(object)),
    "yes or no": (forest(), TWO_CLASSES.astype(bool)),
    "whole floats": (forest(), THREE_CLASSES - 1.0),
    "class weights": (forest(class_weight={0: 1, 1: 0.3, 2: 7}), THREE_CLASSES),
    "balanced in each sample": (forest(class_weight="balanced_subsample"), THREE_CLASSES),
    "no bootstrap": (forest(bootstrap=False, max_samples=None), THREE_CLASSES),
    "one feature a split": (forest(max_features=1), THREE_CLASSES),
    "all features a split": (forest(max_features=None), THREE_CLASSES),
    "entropy": (forest(criterion="entropy", max_leaf_nodes=20), THREE_CLASSES),
    "pruned": (forest(ccp_alpha=0.01), THREE_CLASSES),
    "monotonic": (forest(monotonic_cst=[1, 0, 0, 0, 0]), TWO_CLASSES),
    "absolute error": (RandomForestRegressor(4, criterion="absolute_error", max_depth=4, random_state=0), SCORE),
    "large values": (RandomForestRegressor(8, random_state=0), SCORE * 1e300),
    "small values": (RandomForestRegressor(8, random_state=0), SCORE * 1e-300),
    "several threads": (forest(n_jobs=2), THREE_CLASSES),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_forest_predicts_identical_bits(name: str) -> None:
    """Every type of forest, tree and label gives bit-identical outputs on its own rows and around its splits."""
    unfitted, y = MODELS[name]
    estimator = unfitted.fit(X, y)
    estimator.set_params(**({"n_jobs": 1} if hasattr(estimator, "n_jobs") else {}))  # the engine sets it, too
    assert_same(estimator, double_columns(5), numeric_rows(np.concatenate([X, around_splits(estimator, 5)])))


@pytest.mark.parametrize("features", [1, 2, 3, 4, 7, 8, 500])
def test_any_number_of_features_is_addressed(features: int) -> None:
    """Features are addressed correctly for any number of them, including powers of two."""
    rng = np.random.default_rng(features)
    x = rng.normal(size=(200, features))
    estimator = ExtraTreesClassifier(10, max_features=1, random_state=0).fit(x, rng.integers(3, size=200))
    used = {int(f) for tree in trees_of(estimator) for f in tree.feature if f >= 0}
    assert features - 1 in used or features == 500
    assert_same(
        estimator, double_columns(features), numeric_rows(np.concatenate([x, around_splits(estimator, features)]))
    )


def test_split_between_adjacent_floats_matches_scikit_learn() -> None:
    """A split between two adjacent float32 values separates them as in scikit-learn."""
    steps = (np.float32(2**24) + np.arange(64, dtype=np.float32) * 2).astype(np.float64)
    x = np.column_stack([steps, -steps, steps[::-1] * 3])
    estimator = RandomForestClassifier(6, random_state=0).fit(x, np.arange(64) % 3)
    splits = np.concatenate([tree.threshold[tree.children_left >= 0] for tree in trees_of(estimator)])
    assert (splits != splits.astype(np.float32)).any()
    assert_same(estimator, double_columns(3), numeric_rows(np.concatenate([x, around_splits(estimator, 3)])))


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered in reduce")  # from scikit-learn's own check
@pytest.mark.parametrize("size", [1e30, 1e-30, 1e-45, 1e-320, 3e38])
def test_splits_of_any_magnitude_match_scikit_learn(size: float) -> None:
    """Splits and values of any magnitude, also too small for float32, give scikit-learn's results."""
    fitted = DecisionTreeClassifier(random_state=0).fit(X, THREE_CLASSES)
    splits = np.array([0.0, 1.0, -1.0, 0.3, 1 / 3, -0.7, 1e-3, -1e-3, 0.999999999]) * size
    tree = with_thresholds(fitted, splits)
    values = np.concatenate([splits, np.nextafter(splits, np.inf), np.nextafter(splits, -np.inf), splits / 3, splits])
    x = np.random.default_rng(0).choice(values, (500, 5))
    assert_same(tree, double_columns(5), numeric_rows(np.concatenate([x, around_splits(tree, 5)])))


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered in reduce")
def test_splits_beyond_float32_match_scikit_learn() -> None:
    """Splits beyond the range of float32 give scikit-learn's results."""
    fitted = DecisionTreeClassifier(random_state=0).fit(X, THREE_CLASSES)
    largest = float(np.finfo(np.float32).max)
    tree = with_thresholds(fitted, [1e300, -1e300, largest, np.nextafter(largest, np.inf), largest * (1 + 2e-8), 0.0])
    values = [largest, -largest, float(np.nextafter(np.float32(largest), np.float32(0))), 0.0, 1.0, -1.0, 1e-45]
    assert_same(tree, double_columns(5), numeric_rows(np.random.default_rng(0).choice(values, (500, 5))))


def test_values_rounding_to_a_split_match_scikit_learn() -> None:
    """A float64 value is rounded to float32 before it is compared with a split, half to even."""
    tree = with_thresholds(DecisionTreeRegressor(max_depth=1).fit([[0.0], [1.0]], [0.0, 1.0]), 1.0)
    step = float(np.spacing(np.float32(1)))
    x = [[1 + step * part] for part in (0.25, 0.5, 0.5000001, 0.75, 1.0, 1.5, -0.25)]
    assert_same(tree, double_columns(1), numeric_rows(x))
    assert engine_of(pack(tree, double_columns(1)), double_columns(1)).predict(numeric_rows(x)).labels == [
        0,
        0,
        1,
        1,
        1,
        1,
        0,
    ]


def test_outputs_are_summed_in_the_order_of_the_trees() -> None:
    """Outputs are added in the order of the trees; the reverse order gives other sums."""
    estimator = RandomForestRegressor(30, random_state=0).fit(X, SCORE)
    assert_same(estimator, double_columns(5), numeric_rows(X))
    reversed_sums = sum(tree.predict(X) for tree in reversed(estimator.estimators_)) / 30
    assert (reversed_sums != estimator.predict(X)).any()


def test_first_class_wins_a_tie() -> None:
    """The label of equally probable classes is the first of them."""
    estimator = DecisionTreeClassifier(max_depth=1).fit(X[:, :1], np.tile(["b", "a", "c"], 100))
    single_leaf = DecisionTreeClassifier(min_samples_leaf=100).fit(np.zeros((4, 1)), ["b", "a", "b", "a"])
    assert_same(estimator, double_columns(1), numeric_rows(X[:, :1]))
    assert_same(single_leaf, double_columns(1), numeric_rows([[0.0]]))
    engine = engine_of(pack(single_leaf, double_columns(1)), double_columns(1))
    assert engine.predict(numeric_rows([[0.0]])) == Prediction(["a"], [0.5])


def test_predictions_do_not_depend_on_batch_size() -> None:
    """Rows get the same predictions alone and in batches of any size, in any order of sizes."""
    estimator = forest().fit(X, NAMES)
    x = np.concatenate([X, around_splits(estimator, 5, 700)])
    expected = estimator.predict_proba(x)
    engine = engine_of(pack(estimator, double_columns(5)), double_columns(5))
    for size in (2, 1, 255, 256, 1000, 1, 256):
        parts = np.array_split(expected, range(size, 1000, size))
        for rows, outputs in zip(numeric_rows(x).chunks(size), parts, strict=True):
            assert np.array_equal(engine.outputs(rows), outputs)
            assert engine.predict(rows).labels == estimator.classes_[outputs.argmax(axis=1)].tolist()
    assert engine.predict(numeric_rows(np.empty((0, 5)))) == Prediction([], [])


def test_prediction_is_not_changed_by_the_next_one() -> None:
    """A prediction and its outputs do not change when the engine computes the next one."""
    engine = engine_of(pack(forest().fit(X, THREE_CLASSES), double_columns(5)), double_columns(5))
    first, outputs = engine.predict(numeric_rows(X[:9])), engine.outputs(numeric_rows(X[:9]))
    labels, confidences, initial = list(first.labels), list(first.confidences or ()), outputs.copy()
    engine.predict(numeric_rows(X[100:109]))
    assert first == Prediction(labels, confidences)
    assert np.array_equal(outputs, initial)


def test_memory_layout_of_rows_does_not_matter() -> None:
    """Rows in Fortran order, strided or reversed in memory give the same outputs."""
    estimator = forest().fit(X, THREE_CLASSES)
    engine = engine_of(pack(estimator, double_columns(5)), double_columns(5))
    for x in (np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2], np.repeat(X, 3, axis=0)[::3], X[::-1]):
        assert np.array_equal(engine.outputs(numeric_rows(x)), estimator.predict_proba(x))


# A feature's index takes half of 32 bits, nearly all of them, or all.
@pytest.mark.parametrize("features", [5, 2**16, 2**28, 2**30, 2**31])
def test_wide_nodes_give_the_same_totals(features: int) -> None:
    """Links of 64 bits, which have a kernel of their own, give the same outputs as links of 32 bits."""
    estimator = forest(max_depth=6).fit(X, THREE_CLASSES)
    narrow = pack(estimator, double_columns(5))
    nodes, leaves, roots, bits = pack_trees(trees_of(estimator), features)
    wide = PackedForest(nodes, leaves, roots, bits, narrow.features, (), narrow.classes)
    assert wide.field_words == (1 if features <= 2**16 else 2)
    assert narrow.field_words == 1
    rows = numeric_rows(np.concatenate([X, around_splits(estimator, 5)]))
    assert engine_of(wide, double_columns(5)).outputs(rows).tobytes() == estimator.predict_proba(rows.numbers).tobytes()
    assert engine_of(wide, double_columns(5)).predict(rows) == engine_of(narrow, double_columns(5)).predict(rows)


def test_links_that_use_all_32_bits_are_read_correctly() -> None:
    """Links that use all 32 bits are read correctly, including the highest bit."""
    estimator = forest(max_depth=6).fit(X, THREE_CLASSES)
    count = sum(tree.node_count for tree in trees_of(estimator))
    bits = 32 - int(count).bit_length()
    nodes, leaves, roots, packed_bits = pack_trees(trees_of(estimator), 2**bits - 1)
    assert nodes.dtype == np.uint32
    assert packed_bits == bits
    assert nodes[:, 1].max() >= 2**31
    full = PackedForest(nodes, leaves, roots, bits, pack(estimator, double_columns(5)).features, (), (0, 1, 2))
    assert np.array_equal(engine_of(full, double_columns(5)).outputs(numeric_rows(X)), estimator.predict_proba(X))


def same_arrays(a: PackedForest, b: PackedForest) -> bool:
    pairs = ((a.nodes, b.nodes), (a.leaves, b.leaves), (a.roots, b.roots))
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("labels", [NAMES, THREE_CLASSES, THREE_CLASSES - 1.0, TWO_CLASSES.astype(bool), None], ids=str)
@pytest.mark.parametrize("features", [5, 2**31])
def test_packed_forest_survives_a_round_trip(tmp_path: Path, labels: Any, features: int) -> None:
    """A saved forest loads with equal arrays, labels, formulas and codes; nodes and leaves are mapped read-only."""
    estimator = RandomForestRegressor(3).fit(X, SCORE) if labels is None else forest(max_depth=3).fit(X, labels)
    codes: tuple[dict[str, int], ...] = ({"clay": 0, "ø": 1}, {})
    formulas = tuple(Feature(i % 5, i, i / 7, -i / 3) for i in range(5))
    classes = None if labels is None else tuple(estimator.classes_.tolist())
    packed = PackedForest(*pack_trees(trees_of(estimator), features), formulas, codes, classes)
    packed.save(tmp_path / "forest")
    loaded = PackedForest.load(tmp_path / "forest")
    assert same_arrays(packed, loaded)
    assert (loaded.bits, loaded.features, loaded.codes, loaded.classes) == (packed.bits, formulas, codes, classes)
    assert [type(label) for label in loaded.classes or ()] == [type(label) for label in classes or ()]
    assert (loaded.field_words, loaded.nbytes) == (packed.field_words, packed.nbytes)
    for array in (loaded.nodes, loaded.leaves):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_mapped_forest_predicts(tmp_path: Path) -> None:
    """A forest whose arrays are mapped from files gives scikit-learn's outputs."""
    estimator = forest().fit(X, NAMES)
    pack(estimator, double_columns(5)).save(tmp_path / "forest")
    engine = engine_of(PackedForest.load(tmp_path / "forest"), double_columns(5))
    assert np.array_equal(engine.outputs(numeric_rows(X)), estimator.predict_proba(X))


def test_saving_refuses_an_existing_folder(tmp_path: Path) -> None:
    """Saving a forest into an existing folder raises FileExistsError."""
    with pytest.raises(FileExistsError):
        pack(forest().fit(X, THREE_CLASSES), double_columns(5)).save(tmp_path)


SOIL = pd.DataFrame(
    {
        "soil": np.array(["clay", "sand", "loam"] * 20, dtype=object),
        "depth": np.arange(60) / 7,
        "zone": np.arange(60) % 4 + 1,
        "wet": np.arange(60) % 2 == 0,
    }
)
TYPES = {"soil": "string", "depth": "double", "zone": "long", "wet": "boolean"}


def soil_model(frame: pd.DataFrame = SOIL, **options: Any) -> Pipeline:
    one_hot = OneHotEncoder(sparse_output=False, **options)
    columns = ColumnTransformer([("hot", one_hot, ["soil", "zone", "wet"])], remainder="passthrough")
    return make_pipeline(columns, forest(n_estimators=5)).fit(frame, np.arange(len(frame)) % 7)


@pytest.mark.parametrize("drop", [None, "first", "if_binary"])
@pytest.mark.parametrize(
    ("column", "value", "detail"),
    [
        ("soil", "peat", "soil must be one of the 3 values that the model was fitted on, got peat"),
        ("soil", "Clay", "soil must be one of the 3 values that the model was fitted on, got Clay"),
        ("soil", "", "soil must be one of the 3 values that the model was fitted on, got "),
        ("zone", 5, "zone must be one of the 4 values that the model was fitted on, got 5"),
        ("zone", -1, "zone must be one of the 4 values that the model was fitted on, got -1"),
    ],
)
def test_unknown_category_is_a_client_error(drop: Any, column: str, value: Any, detail: str) -> None:
    """A category that scikit-learn refuses is an error with status 422 that names the column and the value."""
    estimator, schema = soil_model(drop=drop), schema_of(TYPES)
    engine = engine_of(pack(estimator, schema), schema)
    unknown = SOIL.assign(**{column: [value if row == 17 else known for row, known in enumerate(SOIL[column])]})
    with pytest.raises(InvalidRows) as caught:
        engine.predict(rows_of(schema, unknown))
    assert caught.value.status == 422
    assert caught.value.detail == detail
    assert [fault.detail for fault in caught.value.faults] == [detail]
    with pytest.raises(ValueError, match="unknown categories"):
        estimator.predict(unknown)
    assert engine.predict(rows_of(schema, SOIL)).labels == estimator.predict(SOIL).tolist()


def test_unknown_boolean_is_a_client_error() -> None:
    """A boolean value that did not occur when the model was fitted is refused."""
    wet = SOIL[SOIL["wet"]].reset_index(drop=True)
    estimator, schema = soil_model(wet), schema_of(TYPES)
    engine = engine_of(pack(estimator, schema), schema)
    assert engine.predict(rows_of(schema, wet)).labels == estimator.predict(wet).tolist()
    with pytest.raises(InvalidRows, match=r"^wet must be one of the 1 values that the model was fitted on, got"):
        engine.predict(rows_of(schema, wet.assign(wet=False)))


def test_long_category_is_shortened_in_the_error() -> None:
    """The error about an unknown category stays short, however long the value is."""
    schema = schema_of(TYPES)
    engine = engine_of(pack(soil_model(), schema), schema)
    with pytest.raises(InvalidRows) as caught:
        engine.predict(rows_of(schema, SOIL.assign(soil="x" * 10_000)))
    assert len(caught.value.detail) < 120


def test_ignored_unknown_category_matches_scikit_learn() -> None:
    """A model that ignores unknown categories gives scikit-learn's outputs for them."""
    estimator, schema = soil_model(handle_unknown="ignore"), schema_of(TYPES)
    frame = pd.concat([SOIL, SOIL.assign(soil="peat"), SOIL.assign(zone=9), SOIL.assign(zone=-1, soil="")])
    assert_same(estimator, schema, rows_of(schema, frame))


def fork_to_run(work: Callable[[], bool]) -> int:
    """Fork a child that runs ``work`` and exits with status 0 if it returns true, and return its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.alarm(60)
        status = 0 if work() else 2
    finally:
        os._exit(status)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("used_before_fork", [False, True])
def test_engine_predicts_in_forked_children(used_before_fork: bool) -> None:
    """An engine that is created before a fork predicts correctly in several children at the same time."""
    estimator = forest(n_estimators=20).fit(X, NAMES)
    engine = engine_of(pack(estimator, double_columns(5)), double_columns(5))
    if used_before_fork:
        engine.predict(numeric_rows(X[:7]))
    order = [np.random.default_rng(i).permutation(300) for i in range(4)]
    expected = [estimator.predict_proba(X[indices]) for indices in order]

    def work(child: int) -> bool:
        rows = numeric_rows(X[order[child]])
        return all(engine.outputs(rows).tobytes() == expected[child].tobytes() for _ in range(20))

    children = [fork_to_run(lambda i=i: work(i)) for i in range(4)]  # type: ignore[misc]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert engine.outputs(numeric_rows(X)).tobytes() == estimator.predict_proba(X).tobytes()


def test_engine_caches_its_kernel_in_the_given_folder(tmp_path: Path) -> None:
    """An engine for a forest in memory stores its compiled kernel in the given folder."""
    estimator = forest().fit(X, THREE_CLASSES)
    engine = forest_module.create_engine(pack(estimator, double_columns(5)), double_columns(5), tmp_path / "kernels")
    assert engine.name == "forest"
    assert engine.predict(numeric_rows(X)).labels == estimator.predict(X).tolist()
    assert [path.suffix for path in (tmp_path / "kernels").iterdir()] == [".o"]


def test_model_with_only_strings_is_served() -> None:
    """A model that has only string columns gives scikit-learn's outputs."""
    frame = SOIL[["soil"]].assign(kind=np.array(["a", "b", "c", "d"] * 15, dtype=object))
    estimator = make_pipeline(OneHotEncoder(), DecisionTreeRegressor(random_state=0)).fit(frame, np.arange(60.0))
    schema = schema_of({"soil": "string", "kind": "string"})
    rows: Rows = rows_of(schema, frame)
    assert rows.numbers.shape == (60, 0)
    assert_same(estimator, schema, rows)
