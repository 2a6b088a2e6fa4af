"""Steps before the trees as formulas: the same features to the bit, or a refusal that names the step or the column."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.decomposition import PCA
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.feature_selection import SelectFromModel, SelectKBest, VarianceThreshold
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from deploy.models.compile.features import NotCompilable, formulas
from deploy.models.compile.packing import pack
from server.engines import kernel
from server.engines.packed import Feature
from server.engines.sklearn import SklearnEngine
from server.errors import InvalidRows
from server.inference.rows import Rows
from server.inference.schema import InputSchema
from tests.support.models.forests import (
    Floats,
    assert_same,
    double_columns,
    engine_of,
    numeric_rows,
    rows_of,
    schema_of,
    with_thresholds,
)

RNG = np.random.default_rng(0)
COUNT = 240
FRAME = pd.DataFrame(
    {
        "soil": RNG.choice(np.array(["clay", "sand", "loam", "peat bog", "Löss", ""], dtype=object), COUNT),
        "depth": RNG.normal(size=COUNT) * 1e3,
        "zone": RNG.integers(-2, 5, COUNT),
        "wet": RNG.random(COUNT) > 0.5,
        "acid": RNG.random(COUNT) / 3,
        "kind": RNG.choice(np.array(["b", "a"], dtype=object), COUNT),
        "step": RNG.integers(0, 3, COUNT) / 10,
    }
)
KINDS = {
    "soil": "string", "depth": "double", "zone": "long", "wet": "boolean", "acid": "double", "kind": "string",
    "step": "double",
}  # fmt: skip
LABELS = (FRAME["zone"] + FRAME["wet"] * 2 + (FRAME["soil"] == "clay") * 3 + (FRAME["acid"] > 0.2)).to_numpy() % 4
NUMBERS = ["depth", "zone", "acid", "step"]
X: Floats = FRAME[NUMBERS].to_numpy(np.float64)
# Values that the fit has not seen, and categories that are unknown.
MORE = pd.concat(
    [
        FRAME,
        FRAME.assign(soil="marsh", zone=FRAME["zone"] + 3, depth=FRAME["depth"] * 7.77 + 1 / 3, step=0.25),
        FRAME.assign(kind="c", soil="", acid=-FRAME["acid"], wet=~FRAME["wet"]),
    ],
    ignore_index=True,
)
MORE_X: Floats = np.concatenate([X, X * 7.77, -X + 1 / 3, np.round(X)])


def trees(**options: Any) -> ExtraTreesClassifier:
    return ExtraTreesClassifier(**{"n_estimators": 12, "random_state": 0, **options})


def named(*steps: Any) -> Pipeline:
    """A pipeline fitted on the frame, by name."""
    return make_pipeline(*steps, trees()).fit(FRAME, LABELS)


def placed(*steps: Any) -> Pipeline:
    """A pipeline fitted on the columns of numbers, without names."""
    return make_pipeline(*steps, trees()).fit(X, LABELS)


def hot(**options: Any) -> OneHotEncoder:
    return OneHotEncoder(**{"sparse_output": False, "handle_unknown": "ignore", **options})


def columns(*entries: tuple[Any, Any], **options: Any) -> ColumnTransformer:
    made = [(f"{i}", step, chosen) for i, (step, chosen) in enumerate(entries)]
    return ColumnTransformer(made, **{"remainder": "drop", **options})


def same_or_refused(estimator: Any, schema: InputSchema, rows: Rows) -> None:
    """Either is right; another answer, or another error, is not."""
    with contextlib.suppress(NotCompilable):
        assert_same(estimator, schema, rows)


SCALERS = {
    "standard": StandardScaler(),
    "standard, no mean": StandardScaler(with_mean=False),
    "standard, no deviation": StandardScaler(with_std=False),
    "standard, neither": StandardScaler(with_mean=False, with_std=False),
    "robust": RobustScaler(),
    "robust, no centre": RobustScaler(with_centering=False),
    "robust, no scale": RobustScaler(with_scaling=False),
    "robust, of few": RobustScaler(quantile_range=(5, 60), unit_variance=True),
    "largest": MaxAbsScaler(),
    "range": MinMaxScaler(),
    "other range": MinMaxScaler(feature_range=(-3, 1 / 3)),
}


@pytest.mark.parametrize("name", SCALERS)
def test_every_scaler_compiles_to_identical_bits(name: str) -> None:
    """Every scaler, whatever it leaves out, gives the trees the same bits."""
    assert_same(placed(SCALERS[name]), double_columns(4), numeric_rows(MORE_X))


@pytest.mark.parametrize("name", SCALERS)
def test_column_scalers_give_identical_bits(name: str) -> None:
    """A scaler over some columns of a frame, whole and boolean ones among them, gives the trees the same bits."""
    estimator = named(columns((SCALERS[name], ["zone", "depth", "wet"]), ("passthrough", ["acid"])))
    assert_same(estimator, schema_of(KINDS), rows_of(schema_of(KINDS), MORE))


@pytest.mark.parametrize("name", ["standard", "robust", "largest", "range"])
def test_constant_columns_are_scaled_by_one(name: str) -> None:
    """A column that was constant when the scaler was fitted is scaled by one, as scikit-learn does."""
    x = np.column_stack([X, np.full(COUNT, 5.0), np.zeros(COUNT)])
    estimator = make_pipeline(SCALERS[name], trees()).fit(x, LABELS)
    assert_same(estimator, double_columns(6), numeric_rows(np.column_stack([MORE_X, MORE_X[:, :2]])))


@pytest.mark.parametrize("size", [1e-200, 1e-30, 1e30])
@pytest.mark.parametrize("name", ["standard", "robust", "largest", "range"])
def test_scaling_any_magnitude_gives_identical_bits(name: str, size: float) -> None:
    """Columns of any size are scaled to the same bits, also where the size itself is beyond 32 bits."""
    estimator = make_pipeline(SCALERS[name], trees()).fit(X * size, LABELS)
    assert_same(estimator, double_columns(4), numeric_rows(MORE_X * size))


def exacting(scaler: Any, x: Any) -> Pipeline:
    """A tree that parts each scaled value from the next one exactly on the one or just below the other."""
    values = np.unique(scaler.transform(x).astype(np.float32))
    places = np.arange(len(values), dtype=np.float64)
    tree = DecisionTreeRegressor(random_state=0).fit(places.reshape(-1, 1), places)
    lower = np.floor(tree.tree_.threshold[tree.tree_.children_left >= 0]).astype(int)
    below = np.nextafter(values[lower + 1], np.float32(-np.inf))
    return make_pipeline(scaler, with_thresholds(tree, np.where(np.arange(len(lower)) % 2, values[lower], below)))


@pytest.mark.parametrize("name", SCALERS)
@pytest.mark.parametrize("far", [0.0, 1e6, 1e9])
def test_scaling_far_from_zero_gives_identical_bits(name: str, far: float) -> None:
    """What a scaler gives is the same to the last of 32 bits, also far from zero, where a sum rounds much away."""
    x = far + np.random.default_rng(1).random((400, 1)) * 7
    scaler = clone(SCALERS[name]).fit(x)
    assert_same(exacting(scaler, x), double_columns(1), numeric_rows(x))


@pytest.mark.parametrize("scale", [49.0, 7.7, 1e-3])
def test_scaler_divides_instead_of_multiplying_reciprocal(scale: float) -> None:
    """A scaler divides: multiplying by the reciprocal would round values that lie between two of 32 bits elsewhere."""
    between = 1 + (2 * np.arange(0, 2000, 5) + 1) * 2.0**-24
    scaler = StandardScaler(with_mean=False).fit(between.reshape(-1, 1))
    scaler.scale_ = np.array([scale])
    near = between * scale
    x = np.concatenate([near + step * np.spacing(near) for step in range(-2, 3)]).reshape(-1, 1)
    assert ((x / scale).astype(np.float32) != (x * (1 / scale)).astype(np.float32)).any()
    assert_same(exacting(scaler, x), double_columns(1), numeric_rows(x))


SOME_SOILS, NO_KIND = np.array(["sand", "clay", "never"], dtype=object), np.array(["z"], dtype=object)
ENCODERS: dict[str, tuple[OneHotEncoder, bool]] = {
    "any": (hot(), True),
    "known": (hot(handle_unknown="error"), False),
    "without the first": (hot(drop="first", handle_unknown="error"), False),
    "without one of two": (hot(drop="if_binary", handle_unknown="error"), False),
    "any, without the first": (hot(drop="first"), True),
    "any, without one of two": (hot(drop="if_binary"), True),
    "without given ones": (hot(drop=["sand", 3, True, "b"]), True),
    "given": (
        hot(categories=[np.array(each) for each in (SOME_SOILS, [-1, 0, 4, 99], [False, True], NO_KIND)]),
        True,
    ),
    "infrequent, of which there are none": (hot(handle_unknown="infrequent_if_exist"), True),
    "sparse": (hot(sparse_output=True), True),
    "32 bits": (hot(dtype=np.float32), True),
    "whole": (hot(dtype=np.int8), True),
}


@pytest.mark.filterwarnings("ignore:Found unknown categories")
@pytest.mark.parametrize("name", ENCODERS)
def test_one_hot_steps_give_identical_bits(name: str) -> None:
    """One-hot steps over strings, whole numbers and booleans, whatever they drop or take, give the same bits."""
    encoder, takes_any = ENCODERS[name]
    estimator = named(columns((encoder, ["soil", "zone", "wet", "kind"]), ("passthrough", ["acid"])))
    schema = schema_of(KINDS)
    assert_same(estimator, schema, rows_of(schema, MORE if takes_any else FRAME))


@pytest.mark.filterwarnings("ignore:Found unknown categories")
@pytest.mark.parametrize("options", [{}, {"drop": "first"}, {"handle_unknown": "error"}])
def test_one_hot_of_floats(options: dict[str, Any]) -> None:
    """Categories that are fractions are known by all their 64 bits."""
    estimator = placed(columns((hot(**options), [3]), ("passthrough", [0, 1, 2])))
    x = MORE_X if options.get("handle_unknown") != "error" else X
    assert_same(estimator, double_columns(4), numeric_rows(x))
    beyond = np.concatenate([X, X])
    beyond[:COUNT, 3] = np.nextafter(X[:, 3], 1)
    if "handle_unknown" not in options:
        assert_same(estimator, double_columns(4), numeric_rows(beyond))


def test_one_hot_without_names() -> None:
    """Strings and numbers of a plain array of objects, fitted without names, are told apart by their place."""
    x = FRAME[["soil", "kind"]].to_numpy(dtype=object)
    estimator = make_pipeline(hot(handle_unknown="error"), trees()).fit(x, LABELS)
    schema = schema_of({"soil": "string", "kind": "string"})
    compiled = engine_of(pack(estimator, schema), schema)
    assert compiled.totals(rows_of(schema, FRAME[["soil", "kind"]])).tobytes() == estimator.predict_proba(x).tobytes()


def test_column_in_two_steps() -> None:
    """A column may reach the trees as it is, scaled and one-hot, all at once."""
    estimator = placed(columns((hot(), [1, 3]), (StandardScaler(), [1, 0]), ("passthrough", [1, 2]), (hot(), [3])))
    assert_same(estimator, double_columns(4), numeric_rows(MORE_X))


def test_strict_column_in_two_steps() -> None:
    """A column whose categories must be known may reach the trees as it is, too."""
    estimator = placed(columns((hot(handle_unknown="error"), [1]), ("passthrough", [0, 1])))
    assert_same(estimator, double_columns(4), numeric_rows(X))


@pytest.mark.parametrize(
    "chosen",
    [
        SelectKBest(k=3),
        VarianceThreshold(0.11),
        columns(("passthrough", [0, 2, -1])),
        columns(("drop", [1, 3, 4]), remainder="passthrough"),
        columns(("passthrough", [-1])),
    ],
)
@pytest.mark.parametrize("drop", [None, "first"])
def test_unknown_category_of_dropped_column_is_refused(chosen: Any, drop: str | None) -> None:
    """A category that a later step leaves out is known all the same, and an unknown one is not."""
    strict = columns((hot(handle_unknown="error", drop=drop), [1]), ("passthrough", [0]))
    estimator = placed(strict, clone(chosen))
    same_or_refused(estimator, double_columns(4), numeric_rows(X))
    with contextlib.suppress(NotCompilable), pytest.raises(InvalidRows, match=r"x1 must be one of .* \(7 in all\)"):
        engine_of(pack(estimator, double_columns(4)), double_columns(4)).predict(numeric_rows([[0.0, 99.0, 0.0, 0.0]]))


@pytest.mark.parametrize("options", [{}, {"drop": "first"}, {"handle_unknown": "ignore"}])
def test_strict_column_encoded_twice_matches_scikit_learn(options: dict[str, Any]) -> None:
    """A column whose categories must be known, one-hot in two steps, is answered as by scikit-learn or refused."""
    strict = {"handle_unknown": "error"}
    estimator = placed(columns((hot(**strict), [1]), (hot(**{**strict, **options}), [1]), ("passthrough", [0])))
    same_or_refused(estimator, double_columns(4), numeric_rows(X))


@pytest.mark.parametrize(
    ("entries", "options"),
    [
        ([("passthrough", ["acid", "depth"])], {}),
        ([(StandardScaler(), ["zone"]), ("passthrough", ["depth"])], {}),
        ([("drop", ["soil", "kind"])], {"remainder": "passthrough"}),
        ([(hot(), ["soil", "kind"])], {"remainder": "passthrough"}),
        ([("drop", ["soil", "kind", "wet"])], {"remainder": StandardScaler()}),
        ([("passthrough", [6, 1, 2])], {}),
        ([("passthrough", [-1, 1, -3]), (hot(), [0, -2])], {}),
        ([("passthrough", slice(1, 5))], {}),
        ([("passthrough", slice("depth", "acid"))], {}),
        ([("passthrough", slice(4, None, 2)), (hot(), slice(None, 1))], {}),
        ([("passthrough", slice(-1, None)), (hot(), slice(None, "soil"))], {"sparse_threshold": 0}),
        ([("passthrough", [False, True, True, False, True, False, False])], {}),
        ([("passthrough", np.array([False, True, False, True, False, False, False])), (hot(), [0])], {}),
        ([("passthrough", np.array([6, 2])), (hot(), np.array([5]))], {}),
        ([("passthrough", pd.Index(["step", "wet"])), (hot(), ("kind",))], {}),
        ([("passthrough", make_column_selector(dtype_include="number")), (hot(), ["soil"])], {}),
        ([(RobustScaler(), make_column_selector("^de|^st")), (hot(), make_column_selector(dtype_include=bool))], {}),
        ([("passthrough", lambda frame: list(frame.columns[[1, 4]]))], {}),
        ([("passthrough", []), (hot(), ["soil"]), ("drop", [])], {}),
        ([(StandardScaler(), ["depth"]), (hot(), ["soil"])], {"transformer_weights": None, "n_jobs": 1}),
        ([(StandardScaler(), ["depth"]), (hot(), ["soil"])], {"verbose_feature_names_out": False}),
    ],
)
def test_column_selections_match_scikit_learn(entries: list[tuple[Any, Any]], options: dict[str, Any]) -> None:
    """Columns chosen by name, place, slice, mask, selector or as the remainder are the ones that scikit-learn takes."""
    entries = [(hot() if isinstance(step, OneHotEncoder) else step, chosen) for step, chosen in entries]
    estimator = named(columns(*entries, **options))
    if options.get("remainder") == "passthrough" and entries[0][0] == "drop":
        assert len(pack(estimator, schema_of(KINDS)).features) == 5
    # soil and kind are dropped or one-hot: no string reaches the trees.
    assert_same(estimator, schema_of(KINDS), rows_of(schema_of(KINDS), MORE))


@pytest.mark.parametrize("chosen", [[2, 0], slice(1, 3), [True, False, True, True], np.array([3, 1]), slice(0, None)])
def test_array_columns_are_selected_by_position(chosen: Any) -> None:
    """Columns of a plain array are found by place, slice and mask."""
    estimator = placed(columns((StandardScaler(), chosen), (hot(), [-1])))
    assert_same(estimator, double_columns(4), numeric_rows(MORE_X))


def test_column_weights_are_applied_or_refused() -> None:
    """Columns that a ColumnTransformer weighs are weighed, or the step is refused."""
    estimator = placed(columns(("passthrough", [0, 1]), (hot(), [3]), transformer_weights={"0": 1000.0}))
    same_or_refused(estimator, double_columns(4), numeric_rows(MORE_X))


def test_columns_in_another_order() -> None:
    """A signature in another order than that of the frame of the fit leads to the same columns, found by name."""
    names = list(reversed(KINDS))
    schema = schema_of({name: KINDS[name] for name in names})
    estimator = named(columns((StandardScaler(), ["depth", "acid"]), (hot(), ["soil", "zone"]), ("drop", ["kind"])))
    assert_same(estimator, schema, rows_of(schema, MORE[names]))


def test_dropped_columns_may_be_missing_from_signature() -> None:
    """A column that was in the frame of the fit, but is dropped, need not be in the signature."""
    estimator = named(columns((StandardScaler(), ["depth", "acid"]), (hot(), ["soil"]), ("drop", ["kind"])))
    kinds = {name: KINDS[name] for name in ("acid", "depth", "soil")}
    assert_same(estimator, schema_of(kinds), rows_of(schema_of(kinds), MORE[list(kinds)]))


def test_unfitted_signature_columns_are_ignored() -> None:
    """A column of the signature that was not in the frame of the fit changes nothing."""
    estimator = make_pipeline(columns((StandardScaler(), ["depth"]), (hot(), [0, 1])), trees())
    estimator.fit(FRAME[["zone", "kind", "depth"]], LABELS)
    assert_same(estimator, schema_of(KINDS), rows_of(schema_of(KINDS), MORE))


def test_missing_required_column_is_named() -> None:
    """A column that the model needs, and the signature lacks, is told by its name."""
    kinds = {name: KINDS[name] for name in ("depth", "acid")}
    for steps in ([columns(("passthrough", ["zone", "acid"]))], [columns((StandardScaler(), [2]))]):
        with pytest.raises(NotCompilable, match="'zone'"):
            pack(named(*steps), schema_of(kinds))


def test_columns_by_place_in_another_order() -> None:
    """Where places count in the fit's frame, a signature in another order leads to no other columns, or is refused."""
    names = ["step", "acid", "zone", "depth"]
    schema = schema_of({name: KINDS[name] for name in names})
    estimator = make_pipeline(columns((StandardScaler(), [0]), ("passthrough", [2, 1])), trees())
    estimator.fit(FRAME[NUMBERS], LABELS)
    same_or_refused(estimator, schema, rows_of(schema, MORE[names]))


NESTED: dict[str, list[Any]] = {
    "one in one": [make_pipeline(make_pipeline(StandardScaler()))],
    "pass": ["passthrough", None, make_pipeline("passthrough"), MinMaxScaler()],
    "passed": [FunctionTransformer(), StandardScaler(), FunctionTransformer(None)],
    "imputed": [SimpleImputer(), RobustScaler()],
    "imputed median": [StandardScaler(), SimpleImputer(strategy="median")],
    "selected": [VarianceThreshold(0.05), StandardScaler()],
    "selected after": [columns((hot(), [1, 3]), ("passthrough", [0, 2])), VarianceThreshold(0.1)],
    "selected best": [StandardScaler(), SelectKBest(k=2)],
    "selected by trees": [SelectFromModel(DecisionTreeClassifier(max_depth=3, random_state=0))],
    "pipelines in columns": [
        columns(
            (make_pipeline(SimpleImputer(), StandardScaler()), [0, 2]),
            (make_pipeline(SimpleImputer(strategy="most_frequent"), hot()), [1]),
            (Pipeline([("nothing", "passthrough")]), [3]),
        )
    ],
    "columns in columns": [columns((columns((StandardScaler(), [1]), ("passthrough", [0])), [2, 1]), (hot(), [3]))],
    "columns after columns": [
        columns((StandardScaler(), [3, 1]), ("passthrough", [0])),
        columns(("passthrough", [2, 0]), ("drop", [1])),
    ],
    "columns after one-hot": [
        columns((hot(), [1]), ("passthrough", [0, 2])),
        columns(("passthrough", [0, 5, -1]), ("passthrough", slice(6, 8))),
    ],
    "scaled after columns": [columns(("passthrough", [3, 0])), StandardScaler()],
}


@pytest.mark.parametrize("name", NESTED)
def test_nested_pipelines_compile_to_identical_bits(name: str) -> None:
    """Pipelines and columns within each other, imputers, selections and steps that pass all through are followed."""
    assert_same(placed(*NESTED[name]), double_columns(4), numeric_rows(MORE_X))


def test_imputer_of_strings_needs_no_formula() -> None:
    """An imputer before a one-hot step over strings, as usual, has nothing to do."""
    imputed = make_pipeline(SimpleImputer(strategy="constant", fill_value="none"), hot())
    estimator = named(columns((imputed, ["soil", "kind"]), (SimpleImputer(), ["depth", "zone"])))
    assert_same(estimator, schema_of(KINDS), rows_of(schema_of(KINDS), MORE))


@pytest.mark.parametrize("prefixed", [True, False])
def test_columns_by_name_after_columns(prefixed: bool) -> None:
    """Columns that an earlier step has named or moved are found where they are, or the step is refused."""
    first = columns(
        ("passthrough", ["step", "acid"]), (StandardScaler(), ["depth"]), verbose_feature_names_out=prefixed
    )
    chosen = ["0__acid", "1__depth"] if prefixed else ["acid", "depth"]
    second = columns(("passthrough", chosen))
    estimator = named(first.set_output(transform="pandas"), second)
    schema = schema_of(KINDS)
    same_or_refused(estimator, schema, rows_of(schema, MORE))


def test_float32_columns_reach_trees_unchanged() -> None:
    """Columns of 32 bits reach the trees as they are."""
    schema = schema_of({"depth": "float", "acid": "float", "zone": "integer"})
    frame = FRAME[["depth", "acid", "zone"]].astype({"depth": "float32", "acid": "float32", "zone": "int32"})
    for steps in ([], [columns(("passthrough", ["acid", "zone"]))], [columns((StandardScaler(), ["zone"]))]):
        assert_same(make_pipeline(*steps, trees()).fit(frame, LABELS), schema, rows_of(schema, frame * 3))


def test_integers_up_to_float64_limit_are_exact() -> None:
    """Whole numbers up to the largest that a float64 holds are the trees' and the one-hot step's own."""
    big = FRAME[["zone"]] * 2**50 + 1
    schema = schema_of({"zone": "long", "small": "integer"})
    frame = big.assign(small=np.arange(COUNT, dtype=np.int32) * 8_000_000)
    for steps in ([], [columns((hot(), ["zone"]), ("passthrough", ["small"]))], [StandardScaler()]):
        assert_same(make_pipeline(*steps, trees()).fit(frame, LABELS), schema, rows_of(schema, frame))


class Own(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A user's own step."""

    def fit(self, X: Any, y: Any = None) -> Own:  # noqa: N803
        self.fitted_ = True
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803
        return X


REFUSED: dict[str, tuple[list[Any], str]] = {
    "PCA": ([PCA(2)], "the step PCA has no compiled form"),
    "own": ([Own()], "the step Own is none of scikit-learn's own"),
    "polynomials": ([PolynomialFeatures()], "the step PolynomialFeatures has no compiled form"),
    "powers": ([PowerTransformer()], "the step PowerTransformer has no compiled form"),
    "quantiles": ([QuantileTransformer(n_quantiles=9)], "the step QuantileTransformer has no compiled form"),
    "bins": ([KBinsDiscretizer(3, quantile_method="linear")], "the step KBinsDiscretizer has no compiled form"),
    "binary": ([Binarizer()], "the step Binarizer has no compiled form"),
    "ordinals": ([columns((OrdinalEncoder(), [1]))], "the step OrdinalEncoder has no compiled form"),
    "neighbours": ([KNNImputer()], "the step KNNImputer has no compiled form"),
    "union": ([FeatureUnion([("a", StandardScaler())])], "the step FeatureUnion has no compiled form"),
    "function": ([FunctionTransformer(np.abs)], "the step FunctionTransformer has no compiled form"),
    "clipped": ([MinMaxScaler(clip=True)], "the step MinMaxScaler has no compiled form"),
    "deep": ([columns((make_pipeline(PCA(1)), [1, 2]))], "the step PCA has no compiled form"),
    "two scalers": (
        [StandardScaler(), MinMaxScaler()],
        "the step MinMaxScaler follows another one that changes column 'x0'",
    ),
    "scaled one-hot": (
        [columns((hot(), [3])), MaxAbsScaler()],
        "the step MaxAbsScaler follows another one that changes column 'x3'",
    ),
    "scaled, then one-hot": (
        [columns((make_pipeline(RobustScaler(), hot()), [1]))],
        "the step OneHotEncoder follows another one that changes column 'x1'",
    ),
    "infrequent": ([columns((hot(min_frequency=0.2), [1]))], "OneHotEncoder groups infrequent categories"),
    "most categories": ([columns((hot(max_categories=3), [1]))], "OneHotEncoder groups infrequent categories"),
    "indicator": ([SimpleImputer(add_indicator=True)], "SimpleImputer does more than fill NaN"),
    "other missing": ([SimpleImputer(missing_values=0)], "SimpleImputer does more than fill NaN"),
    "one column twice": (
        [columns((hot(handle_unknown="error"), [1, 1]))],
        "column 'x1' is one-hot encoded twice",
    ),
}


@pytest.mark.filterwarnings("ignore:Bins whose width are too small")
@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_step_is_refused_with_its_name(name: str) -> None:
    """A step without a formula is refused with a reason that names it, or the column, in one line."""
    steps, reason = REFUSED[name]
    with pytest.raises(NotCompilable) as caught:
        pack(placed(*steps), double_columns(4))
    assert str(caught.value) == reason


def test_clipping_max_abs_scaler_is_refused() -> None:
    """A scaler by the largest value that clips, where scikit-learn has one, is refused."""
    if "clip" not in MaxAbsScaler().get_params():
        pytest.skip("this scikit-learn's MaxAbsScaler does not clip")
    with pytest.raises(NotCompilable, match="MaxAbsScaler has no compiled form"):
        pack(placed(MaxAbsScaler(clip=True)), double_columns(4))


def test_empty_column_is_gone() -> None:
    """An imputer that drops a column in which nothing was known is refused."""
    x = X.copy()
    x[:, 2] = np.nan
    with pytest.warns(UserWarning, match="Skipping features"):
        estimator = make_pipeline(SimpleImputer(), trees()).fit(x, LABELS)
    with pytest.raises(NotCompilable, match="SimpleImputer does more than fill NaN"):
        pack(estimator, double_columns(4))


@pytest.mark.parametrize("name", ["depth", "soil", "wet"])
def test_optional_column_is_refused_by_name(name: str) -> None:
    """A column that may be missing is refused by its name, whether the model uses it or not."""
    estimator = named(columns(("passthrough", ["acid", "zone"])))
    with pytest.raises(NotCompilable, match=f"column '{name}' may be missing"):
        pack(estimator, schema_of(KINDS, optional=name))


@pytest.mark.parametrize("step", [StandardScaler(), hot(handle_unknown="error"), MinMaxScaler()])
def test_float32_behind_a_step(step: Any) -> None:
    """A column of 32 bits that a step computes with is refused: scikit-learn computes in 32 bits there."""
    frame = FRAME[["step", "acid"]].astype({"step": "float32"})
    estimator = make_pipeline(columns((step, ["step"]), ("passthrough", ["acid"])), trees()).fit(frame, LABELS)
    reason = f"the step {type(step).__name__} computes column 'step' in 32 bits"
    with pytest.raises(NotCompilable, match=reason):
        pack(estimator, schema_of({"step": "float", "acid": "double"}))


def test_unencoded_string_column_is_refused() -> None:
    """A column of strings that no step turns into numbers is refused by its name."""
    digits = FRAME.assign(kind=FRAME["zone"].astype(str).astype(object))[["acid", "kind"]]
    schema = schema_of({"acid": "double", "kind": "string"})
    for steps in ([], ["passthrough"], [columns(("passthrough", ["kind"]), (hot(), ["kind"]))]):
        estimator = make_pipeline(*steps, trees()).fit(digits, LABELS)
        with pytest.raises(NotCompilable, match="column 'kind' of strings reaches the trees as it is"):
            pack(estimator, schema)


@pytest.mark.parametrize("step", [StandardScaler(), MinMaxScaler()])
def test_scaled_string_column_is_refused(step: Any) -> None:
    """A column of strings that hold numbers, which scikit-learn converts, is refused by its name."""
    digits = FRAME.assign(kind=FRAME["zone"].astype(str).astype(object))[["acid", "kind"]]
    estimator = make_pipeline(step, trees()).fit(digits, LABELS)
    with pytest.raises(NotCompilable, match="'kind'"):
        pack(estimator, schema_of({"acid": "double", "kind": "string"}))


@pytest.mark.parametrize(
    ("kind", "categories"),
    [
        ("string", np.array(["a", None], dtype=object)),
        ("string", np.array(["a", np.nan], dtype=object)),
        ("double", np.array([0.0, np.nan])),
        ("double", np.array(["a", "b"], dtype=object)),
    ],
)
def test_categories_of_another_kind(kind: str, categories: Any) -> None:
    """A category that no value of the column's type equals is refused with the column's name."""
    encoder = hot().fit(np.resize(categories, (10, 1)))
    with pytest.raises(NotCompilable, match=r"column 'x' of (strings|numbers) has the category"):
        formulas([encoder], schema_of({"x": kind}))


def test_wrong_number_of_features_is_refused() -> None:
    """Steps that give another number of features than the trees take are refused."""
    estimator = placed(StandardScaler())
    with pytest.raises(NotCompilable, match="the steps give 5 features, and the trees take 4"):
        pack(make_pipeline("passthrough", estimator[-1]), double_columns(5))


def test_formulas_index_columns_and_category_codes() -> None:
    """A formula names the column by its place among the numbers, then the strings, and a category by its code."""
    schema = schema_of({"s": "string", "a": "double", "t": "string", "b": "double"})
    frame = pd.DataFrame({"s": ["u", "v"], "a": [1.0, 3.0], "t": ["y", "x"], "b": [0.0, 1.0]})
    steps = columns((hot(handle_unknown="error", drop="first"), ["t"]), (StandardScaler(), ["a"]), (hot(), ["s"]))
    made = formulas([steps.fit(frame)], schema)
    assert [column.name for column in made.columns] == ["a", "b", "s", "t"]
    assert made.codes == [{"u": 0, "v": 1}, {"x": 0, "y": 1}]
    assert made.features == [
        Feature(kernel.EQUALS_KNOWN, 3, 1.0),
        Feature(kernel.SHIFT_DIVIDE, 0, 2.0, 1.0),
        Feature(kernel.EQUALS, 2, 0.0),
        Feature(kernel.EQUALS, 2, 1.0),
    ]
    assert made.extra == [Feature(kernel.EQUALS_KNOWN, 3, 0.0)]


def test_reference_takes_the_frame() -> None:
    """What the tests compare with finds columns by name where the model was fitted so."""
    schema: InputSchema = schema_of(KINDS)
    estimator = named(columns(("passthrough", ["depth"])))
    rows = rows_of(schema, FRAME)
    assert SklearnEngine(estimator, schema).totals(rows).tobytes() == estimator.predict_proba(FRAME).tobytes()


class OwnScaler(StandardScaler):  # type: ignore[misc]
    """Takes -999 for a value that is not known."""

    def transform(self, x: Any, copy: bool | None = None) -> Any:
        return super().transform(np.where(np.asarray(x) == -999, self.mean_, x), copy)


class OwnColumns(ColumnTransformer):  # type: ignore[misc]
    """May do anything."""


class OwnPipeline(Pipeline):  # type: ignore[misc]
    """Answers something else."""

    def predict(self, X: Any, **options: Any) -> Any:  # noqa: N803
        return super().predict(X, **options) * 0 + 7


@pytest.mark.parametrize(
    "estimator",
    [
        placed(OwnScaler()),
        placed(OwnColumns([("0", "passthrough", [0, 1])])),
        placed(columns((OwnScaler(), [0, 1]))),
        OwnPipeline([("trees", trees())]).fit(X, LABELS),
    ],
)
def test_steps_of_ones_own(estimator: Any) -> None:
    """A class that only descends from one of scikit-learn's may do anything, and is refused by its name."""
    with pytest.raises(NotCompilable, match="Own"):
        pack(estimator, double_columns(4))


def test_pipeline_of_ones_own() -> None:
    """A pipeline that predicts in its own way is served as it predicts."""
    estimator = OwnPipeline([("trees", trees())]).fit(X, LABELS)
    assert set(SklearnEngine(estimator, double_columns(4)).predict(numeric_rows(X)).labels) == set(
        estimator.predict(X).tolist()
    )


@pytest.mark.parametrize("value", [3.5e38, 1e39, -1e300])
def test_number_beyond_32_bits(value: float) -> None:
    """A number that is none of 32 bits, which scikit-learn refuses, is the client's error and names its column."""
    engine = engine_of(pack(placed("passthrough"), double_columns(4)), double_columns(4))
    rows = X[:3].copy()
    rows[1, 2] = value
    with pytest.raises(InvalidRows, match="x2 is too large for the model"):
        engine.predict(numeric_rows(rows))
    rows[1, 2] = float(np.finfo(np.float32).max)
    assert len(engine.predict(numeric_rows(rows)).labels) == 3
