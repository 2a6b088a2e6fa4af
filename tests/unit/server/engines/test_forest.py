"""The packed forest as the server runs it: every total is scikit-learn's, to the bit."""

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
THREE = np.digitize(SCORE, [-0.7, 0.7])
TWO = (SCORE > 0).astype(int)
NAMES = np.array(["fir", "pine", "aspen"])[THREE]


def forest(seed: int = 0, **options: Any) -> RandomForestClassifier:
    return RandomForestClassifier(**{"n_estimators": 8, "random_state": seed, **options})


MODELS: dict[str, tuple[Any, Any]] = {
    "random forest": (forest(), THREE),
    "random forest, regression": (RandomForestRegressor(8, random_state=0), SCORE),
    "extra trees": (ExtraTreesClassifier(8, random_state=0), THREE),
    "extra trees, regression": (ExtraTreesRegressor(8, random_state=0), SCORE),
    "tree": (DecisionTreeClassifier(random_state=0), THREE),
    "tree, regression": (DecisionTreeRegressor(random_state=0), SCORE),
    "extra tree": (ExtraTreeClassifier(random_state=0), THREE),
    "extra tree, regression": (ExtraTreeRegressor(random_state=0), SCORE),
    "single leaf": (DecisionTreeClassifier(max_depth=1, min_samples_leaf=200), THREE),
    "single leaf, regression": (DecisionTreeRegressor(min_samples_leaf=200), SCORE),
    "single leaves and trees": (forest(min_samples_leaf=120, max_features=1), TWO),
    "two classes": (forest(), TWO),
    "one class": (forest(), np.full(300, 7)),
    "thirty classes": (forest(max_depth=6), np.arange(300) % 30),
    "sparse classes": (forest(), np.array([3, 700, -5])[THREE]),
    "negative classes": (forest(), -THREE),
    "names": (forest(), NAMES),
    "names as objects": (forest(), NAMES.astype(object)),
    "yes or no": (forest(), TWO.astype(bool)),
    "whole floats": (forest(), THREE - 1.0),
    "class weights": (forest(class_weight={0: 1, 1: 0.3, 2: 7}), THREE),
    "balanced in each sample": (forest(class_weight="balanced_subsample"), THREE),
    "no bootstrap": (forest(bootstrap=False, max_samples=None), THREE),
    "one feature a split": (forest(max_features=1), THREE),
    "all features a split": (forest(max_features=None), THREE),
    "entropy": (forest(criterion="entropy", max_leaf_nodes=20), THREE),
    "pruned": (forest(ccp_alpha=0.01), THREE),
    "monotonic": (forest(monotonic_cst=[1, 0, 0, 0, 0]), TWO),
    "absolute error": (RandomForestRegressor(4, criterion="absolute_error", max_depth=4, random_state=0), SCORE),
    "large values": (RandomForestRegressor(8, random_state=0), SCORE * 1e300),
    "small values": (RandomForestRegressor(8, random_state=0), SCORE * 1e-300),
    "several threads": (forest(n_jobs=2), THREE),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_forest_predicts_identical_bits(name: str) -> None:
    """Every kind of forest, tree and label gives the same bits on its own rows and around its splits."""
    unfitted, y = MODELS[name]
    estimator = unfitted.fit(X, y)
    estimator.set_params(**({"n_jobs": 1} if hasattr(estimator, "n_jobs") else {}))  # as the engine sets it
    assert_same(estimator, double_columns(5), numeric_rows(np.concatenate([X, around_splits(estimator, 5)])))


@pytest.mark.parametrize("features", [1, 2, 3, 4, 7, 8, 500])
def test_any_number_of_features_is_addressed(features: int) -> None:
    """However many features there are, also where their count is a power of two, all are found."""
    rng = np.random.default_rng(features)
    x = rng.normal(size=(200, features))
    estimator = ExtraTreesClassifier(10, max_features=1, random_state=0).fit(x, rng.integers(3, size=200))
    used = {int(f) for tree in trees_of(estimator) for f in tree.feature if f >= 0}
    assert features - 1 in used or features == 500
    assert_same(
        estimator, double_columns(features), numeric_rows(np.concatenate([x, around_splits(estimator, features)]))
    )


def test_split_between_adjacent_floats_matches_scikit_learn() -> None:
    """Splits between two neighbouring float32 values, which no float32 is, part them as scikit-learn does."""
    steps = (np.float32(2**24) + np.arange(64, dtype=np.float32) * 2).astype(np.float64)
    x = np.column_stack([steps, -steps, steps[::-1] * 3])
    estimator = RandomForestClassifier(6, random_state=0).fit(x, np.arange(64) % 3)
    splits = np.concatenate([tree.threshold[tree.children_left >= 0] for tree in trees_of(estimator)])
    assert (splits != splits.astype(np.float32)).any()
    assert_same(estimator, double_columns(3), numeric_rows(np.concatenate([x, around_splits(estimator, 3)])))


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered in reduce")  # in scikit-learn's own check
@pytest.mark.parametrize("size", [1e30, 1e-30, 1e-45, 1e-320, 3e38])
def test_splits_of_any_magnitude_match_scikit_learn(size: float) -> None:
    """Splits and rows of any size, down to those that a float32 cannot hold, part as scikit-learn does."""
    fitted = DecisionTreeClassifier(random_state=0).fit(X, THREE)
    splits = np.array([0.0, 1.0, -1.0, 0.3, 1 / 3, -0.7, 1e-3, -1e-3, 0.999999999]) * size
    tree = with_thresholds(fitted, splits)
    values = np.concatenate([splits, np.nextafter(splits, np.inf), np.nextafter(splits, -np.inf), splits / 3, splits])
    x = np.random.default_rng(0).choice(values, (500, 5))
    assert_same(tree, double_columns(5), numeric_rows(np.concatenate([x, around_splits(tree, 5)])))


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered in reduce")
def test_splits_beyond_float32_match_scikit_learn() -> None:
    """Splits above the largest float32 and below the lowest part as scikit-learn does."""
    fitted = DecisionTreeClassifier(random_state=0).fit(X, THREE)
    most = float(np.finfo(np.float32).max)
    tree = with_thresholds(fitted, [1e300, -1e300, most, np.nextafter(most, np.inf), most * (1 + 2e-8), 0.0])
    values = [most, -most, float(np.nextafter(np.float32(most), np.float32(0))), 0.0, 1.0, -1.0, 1e-45]
    assert_same(tree, double_columns(5), numeric_rows(np.random.default_rng(0).choice(values, (500, 5))))


def test_values_rounding_to_a_split_match_scikit_learn() -> None:
    """A value of 64 bits is rounded to 32 before it is compared, to the nearest and to even."""
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


def test_order_of_the_sum() -> None:
    """Totals are added tree by tree: in another order they would be other numbers."""
    estimator = RandomForestRegressor(30, random_state=0).fit(X, SCORE)
    assert_same(estimator, double_columns(5), numeric_rows(X))
    backwards = sum(tree.predict(X) for tree in reversed(estimator.estimators_)) / 30
    assert (backwards != estimator.predict(X)).any()


def test_first_class_wins_a_tie() -> None:
    """Of two equally probable classes the first is the label."""
    estimator = DecisionTreeClassifier(max_depth=1).fit(X[:, :1], np.tile(["b", "a", "c"], 100))
    only = DecisionTreeClassifier(min_samples_leaf=100).fit(np.zeros((4, 1)), ["b", "a", "b", "a"])
    assert_same(estimator, double_columns(1), numeric_rows(X[:, :1]))
    assert_same(only, double_columns(1), numeric_rows([[0.0]]))
    assert engine_of(pack(only, double_columns(1)), double_columns(1)).predict(numeric_rows([[0.0]])) == Prediction(
        ["a"], [0.5]
    )


def test_predictions_do_not_depend_on_batch_size() -> None:
    """Rows get the same answers alone and in any batch, larger or smaller than those before."""
    estimator = forest().fit(X, NAMES)
    x = np.concatenate([X, around_splits(estimator, 5, 700)])
    expected = estimator.predict_proba(x)
    engine = engine_of(pack(estimator, double_columns(5)), double_columns(5))
    for size in (2, 1, 255, 256, 1000, 1, 256):
        parts = np.array_split(expected, range(size, 1000, size))
        for rows, wanted in zip(numeric_rows(x).chunks(size), parts, strict=True):
            assert np.array_equal(engine.totals(rows), wanted)
            assert engine.predict(rows).labels == estimator.classes_[wanted.argmax(axis=1)].tolist()
    assert engine.predict(numeric_rows(np.empty((0, 5)))) == Prediction([], [])


def test_answers_are_kept() -> None:
    """An answer does not change when the next one is computed."""
    engine = engine_of(pack(forest().fit(X, THREE), double_columns(5)), double_columns(5))
    first, totals = engine.predict(numeric_rows(X[:9])), engine.totals(numeric_rows(X[:9]))
    labels, confidences, before = list(first.labels), list(first.confidences or ()), totals.copy()
    engine.predict(numeric_rows(X[100:109]))
    assert first == Prediction(labels, confidences)
    assert np.array_equal(totals, before)


def test_rows_in_any_layout() -> None:
    """Rows that are columns of something larger, or lie the other way round in memory, give the same answers."""
    estimator = forest().fit(X, THREE)
    engine = engine_of(pack(estimator, double_columns(5)), double_columns(5))
    for x in (np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2], np.repeat(X, 3, axis=0)[::3], X[::-1]):
        assert np.array_equal(engine.totals(numeric_rows(x)), estimator.predict_proba(x))


# What a feature's index takes: half of 32 bits, all but a few, and all of them.
@pytest.mark.parametrize("features", [5, 2**16, 2**28, 2**30, 2**31])
def test_wide_nodes_give_the_same_totals(features: int) -> None:
    """Where a link needs 64 bits, the other kernel walks the same trees to the same totals."""
    estimator = forest(max_depth=6).fit(X, THREE)
    narrow = pack(estimator, double_columns(5))
    nodes, leaves, roots, bits = pack_trees(trees_of(estimator), features)
    wide = PackedForest(nodes, leaves, roots, bits, narrow.features, (), narrow.classes)
    assert wide.words == (1 if features <= 2**16 else 2)
    assert narrow.words == 1
    rows = numeric_rows(np.concatenate([X, around_splits(estimator, 5)]))
    assert engine_of(wide, double_columns(5)).totals(rows).tobytes() == estimator.predict_proba(rows.numbers).tobytes()
    assert engine_of(wide, double_columns(5)).predict(rows) == engine_of(narrow, double_columns(5)).predict(rows)


def test_all_bits_of_a_link() -> None:
    """Links that fill 32 bits to the last are read as they were written."""
    estimator = forest(max_depth=6).fit(X, THREE)
    count = sum(tree.node_count for tree in trees_of(estimator))
    bits = 32 - int(count).bit_length()
    nodes, leaves, roots, found = pack_trees(trees_of(estimator), 2**bits - 1)
    assert nodes.dtype == np.uint32
    assert found == bits
    assert nodes[:, 1].max() >= 2**31
    full = PackedForest(nodes, leaves, roots, bits, pack(estimator, double_columns(5)).features, (), (0, 1, 2))
    assert np.array_equal(engine_of(full, double_columns(5)).totals(numeric_rows(X)), estimator.predict_proba(X))


def same_arrays(a: PackedForest, b: PackedForest) -> bool:
    pairs = ((a.nodes, b.nodes), (a.leaves, b.leaves), (a.roots, b.roots))
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("labels", [NAMES, THREE, THREE - 1.0, TWO.astype(bool), None], ids=str)
@pytest.mark.parametrize("features", [5, 2**31])
def test_packed_forest_survives_a_round_trip(tmp_path: Path, labels: Any, features: int) -> None:
    """What is saved is loaded: arrays, labels with their types, formulas and codes; the large ones stay in the file."""
    estimator = RandomForestRegressor(3).fit(X, SCORE) if labels is None else forest(max_depth=3).fit(X, labels)
    codes: tuple[dict[str, int], ...] = ({"clay": 0, "ø": 1}, {})
    rest = (tuple(Feature(i % 5, i, i / 7, -i / 3) for i in range(5)), codes)
    classes = None if labels is None else tuple(estimator.classes_.tolist())
    packed = PackedForest(*pack_trees(trees_of(estimator), features), *rest, classes)
    packed.save(tmp_path / "forest")
    loaded = PackedForest.load(tmp_path / "forest")
    assert same_arrays(packed, loaded)
    assert (loaded.bits, loaded.features, loaded.codes, loaded.classes) == (packed.bits, *rest, classes)
    assert [type(label) for label in loaded.classes or ()] == [type(label) for label in classes or ()]
    assert (loaded.words, loaded.nbytes) == (packed.words, packed.nbytes)
    for array in (loaded.nodes, loaded.leaves):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_mapped_forest_predicts(tmp_path: Path) -> None:
    """A forest whose arrays are mapped from files answers as the one in memory."""
    estimator = forest().fit(X, NAMES)
    pack(estimator, double_columns(5)).save(tmp_path / "forest")
    engine = engine_of(PackedForest.load(tmp_path / "forest"), double_columns(5))
    assert np.array_equal(engine.totals(numeric_rows(X)), estimator.predict_proba(X))


def test_saving_refuses_an_existing_folder(tmp_path: Path) -> None:
    """A forest is not written over what is there."""
    with pytest.raises(FileExistsError):
        pack(forest().fit(X, THREE), double_columns(5)).save(tmp_path)


SOIL = pd.DataFrame(
    {
        "soil": np.array(["clay", "sand", "loam"] * 20, dtype=object),
        "depth": np.arange(60) / 7,
        "zone": np.arange(60) % 4 + 1,
        "wet": np.arange(60) % 2 == 0,
    }
)
KINDS = {"soil": "string", "depth": "double", "zone": "long", "wet": "boolean"}


def soil_model(frame: pd.DataFrame = SOIL, **options: Any) -> Pipeline:
    one_hot = OneHotEncoder(sparse_output=False, **options)
    columns = ColumnTransformer([("hot", one_hot, ["soil", "zone", "wet"])], remainder="passthrough")
    return make_pipeline(columns, forest(n_estimators=5)).fit(frame, np.arange(len(frame)) % 7)


@pytest.mark.parametrize("drop", [None, "first", "if_binary"])
@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("soil", "peat", "soil must be one of the values that the model was fitted on (3 in all), got peat"),
        ("soil", "Clay", "soil must be one of the values that the model was fitted on (3 in all), got Clay"),
        ("soil", "", "soil must be one of the values that the model was fitted on (3 in all), got "),
        ("zone", 5, "zone must be one of the values that the model was fitted on (4 in all), got 5"),
        ("zone", -1, "zone must be one of the values that the model was fitted on (4 in all), got -1"),
    ],
)
def test_unknown_category_is_a_client_error(drop: Any, column: str, value: Any, said: str) -> None:
    """A category that the model refuses is the client's error, which names the column and the value."""
    estimator, schema = soil_model(drop=drop), schema_of(KINDS)
    engine = engine_of(pack(estimator, schema), schema)
    unknown = SOIL.assign(**{column: [value if row == 17 else known for row, known in enumerate(SOIL[column])]})
    with pytest.raises(InvalidRows) as caught:
        engine.predict(rows_of(schema, unknown))
    assert caught.value.status == 422
    assert caught.value.detail == said
    assert [fault.detail for fault in caught.value.faults] == [said]
    with pytest.raises(ValueError, match="unknown categories"):
        estimator.predict(unknown)
    assert engine.predict(rows_of(schema, SOIL)).labels == estimator.predict(SOIL).tolist()


def test_unknown_yes_or_no() -> None:
    """A model that was fitted on rows that are all wet refuses one that is not."""
    wet = SOIL[SOIL["wet"]].reset_index(drop=True)
    estimator, schema = soil_model(wet), schema_of(KINDS)
    engine = engine_of(pack(estimator, schema), schema)
    assert engine.predict(rows_of(schema, wet)).labels == estimator.predict(wet).tolist()
    with pytest.raises(
        InvalidRows, match=r"^wet must be one of the values that the model was fitted on \(1 in all\), got"
    ):
        engine.predict(rows_of(schema, wet.assign(wet=False)))


def test_long_category_is_shortened_in_the_error() -> None:
    """However long an unknown value is, the error that quotes it is short."""
    schema = schema_of(KINDS)
    engine = engine_of(pack(soil_model(), schema), schema)
    with pytest.raises(InvalidRows) as caught:
        engine.predict(rows_of(schema, SOIL.assign(soil="x" * 10_000)))
    assert len(caught.value.detail) < 120


def test_ignored_unknown_category_matches_scikit_learn() -> None:
    """A model that takes any category takes it as scikit-learn does."""
    estimator, schema = soil_model(handle_unknown="ignore"), schema_of(KINDS)
    frame = pd.concat([SOIL, SOIL.assign(soil="peat"), SOIL.assign(zone=9), SOIL.assign(zone=-1, soil="")])
    assert_same(estimator, schema, rows_of(schema, frame))


def in_child(work: Callable[[], bool]) -> int:
    """Start a forked child that says by its exit status whether ``work`` came out right; its process id."""
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
@pytest.mark.parametrize("used_before", [False, True])
def test_engine_predicts_in_forked_children(used_before: bool) -> None:
    """An engine made before a fork predicts in each child, several at once, without one disturbing another."""
    estimator = forest(n_estimators=20).fit(X, NAMES)
    engine = engine_of(pack(estimator, double_columns(5)), double_columns(5))
    if used_before:
        engine.predict(numeric_rows(X[:7]))
    order = [np.random.default_rng(i).permutation(300) for i in range(4)]
    expected = [estimator.predict_proba(X[places]) for places in order]

    def work(child: int) -> bool:
        rows = numeric_rows(X[order[child]])
        return all(engine.totals(rows).tobytes() == expected[child].tobytes() for _ in range(20))

    children = [in_child(lambda i=i: work(i)) for i in range(4)]  # type: ignore[misc]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert engine.totals(numeric_rows(X)).tobytes() == estimator.predict_proba(X).tobytes()


def test_made_from_memory(tmp_path: Path) -> None:
    """An engine is made from a forest in memory, its kernel kept in the folder that is given."""
    estimator = forest().fit(X, THREE)
    engine = forest_module.make(pack(estimator, double_columns(5)), double_columns(5), tmp_path / "kernels")
    assert engine.name == "forest"
    assert engine.predict(numeric_rows(X)).labels == estimator.predict(X).tolist()
    assert [path.suffix for path in (tmp_path / "kernels").iterdir()] == [".o"]


def test_model_with_only_strings_is_served() -> None:
    """A model without a column of numbers is served, too."""
    frame = SOIL[["soil"]].assign(kind=np.array(["a", "b", "c", "d"] * 15, dtype=object))
    estimator = make_pipeline(OneHotEncoder(), DecisionTreeRegressor(random_state=0)).fit(frame, np.arange(60.0))
    schema = schema_of({"soil": "string", "kind": "string"})
    rows: Rows = rows_of(schema, frame)
    assert rows.numbers.shape == (60, 0)
    assert_same(estimator, schema, rows)
