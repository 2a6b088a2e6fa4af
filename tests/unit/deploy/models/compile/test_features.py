"""Tests of pipeline steps as formulas: equal features to the last bit, or a refusal that names the step or column."""

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

from deploy.models.compile.features import NotCompilable, derive_formulas
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
TYPES = {
    "soil": "string", "depth": "double", "zone": "long", "wet": "boolean", "acid": "double", "kind": "string",
    "step": "double",
}  # fmt: skip
LABELS = (FRAME["zone"] + FRAME["wet"] * 2 + (FRAME["soil"] == "clay") * 3 + (FRAME["acid"] > 0.2)).to_numpy() % 4
NUMBERS = ["depth", "zone", "acid", "step"]
X: Floats = FRAME[NUMBERS].to_numpy(np.float64)
# FRAME with further rows: values outside the fitted range, and unknown categories.
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


def fit_on_frame(*steps: Any) -> Pipeline:
    """Return a pipeline of these steps and trees, fitted on the DataFrame, whose columns have names."""
    return make_pipeline(*steps, trees()).fit(FRAME, LABELS)


def fit_on_array(*steps: Any) -> Pipeline:
    """Return a pipeline of these steps and trees, fitted on an array of the number columns, without names."""
    return make_pipeline(*steps, trees()).fit(X, LABELS)


def one_hot(**options: Any) -> OneHotEncoder:
    return OneHotEncoder(**{"sparse_output": False, "handle_unknown": "ignore", **options})


def columns(*entries: tuple[Any, Any], **options: Any) -> ColumnTransformer:
    transformers = [(f"{i}", step, selection) for i, (step, selection) in enumerate(entries)]
    return ColumnTransformer(transformers, **{"remainder": "drop", **options})


def same_or_refused(estimator: Any, schema: InputSchema, rows: Rows) -> None:
    """Assert that the compiled form has scikit-learn's results, or that compiling is refused."""
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
    "robust, other quantiles": RobustScaler(quantile_range=(5, 60), unit_variance=True),
    "max abs": MaxAbsScaler(),
    "min max": MinMaxScaler(),
    "min max, other range": MinMaxScaler(feature_range=(-3, 1 / 3)),
}


@pytest.mark.parametrize("name", SCALERS)
def test_every_scaler_compiles_to_identical_bits(name: str) -> None:
    """Every scaler, with every option, passes the same bits to the trees."""
    assert_same(fit_on_array(SCALERS[name]), double_columns(4), numeric_rows(MORE_X))


@pytest.mark.parametrize("name", SCALERS)
def test_column_scalers_give_identical_bits(name: str) -> None:
    """A scaler of some columns of a frame, also integer and boolean ones, passes the same bits to the trees."""
    estimator = fit_on_frame(columns((SCALERS[name], ["zone", "depth", "wet"]), ("passthrough", ["acid"])))
    assert_same(estimator, schema_of(TYPES), rows_of(schema_of(TYPES), MORE))


@pytest.mark.parametrize("name", ["standard", "robust", "max abs", "min max"])
def test_constant_columns_are_scaled_by_one(name: str) -> None:
    """A column that was constant when the scaler was fitted is scaled by one, as in scikit-learn."""
    x = np.column_stack([X, np.full(COUNT, 5.0), np.zeros(COUNT)])
    estimator = make_pipeline(SCALERS[name], trees()).fit(x, LABELS)
    assert_same(estimator, double_columns(6), numeric_rows(np.column_stack([MORE_X, MORE_X[:, :2]])))


@pytest.mark.parametrize("size", [1e-200, 1e-30, 1e30])
@pytest.mark.parametrize("name", ["standard", "robust", "max abs", "min max"])
def test_scaling_any_magnitude_gives_identical_bits(name: str, size: float) -> None:
    """Columns of any magnitude are scaled to the same bits, also beyond the range of float32."""
    estimator = make_pipeline(SCALERS[name], trees()).fit(X * size, LABELS)
    assert_same(estimator, double_columns(4), numeric_rows(MORE_X * size))


def sensitive_tree(scaler: Any, x: Any) -> Pipeline:
    """Return a tree that splits between each two scaled values, exactly on the lower or just below the upper one."""
    values = np.unique(scaler.transform(x).astype(np.float32))
    ranks = np.arange(len(values), dtype=np.float64)
    tree = DecisionTreeRegressor(random_state=0).fit(ranks.reshape(-1, 1), ranks)
    lower = np.floor(tree.tree_.threshold[tree.tree_.children_left >= 0]).astype(int)
    below = np.nextafter(values[lower + 1], np.float32(-np.inf))
    return make_pipeline(scaler, with_thresholds(tree, np.where(np.arange(len(lower)) % 2, values[lower], below)))


@pytest.mark.parametrize("name", SCALERS)
@pytest.mark.parametrize("offset", [0.0, 1e6, 1e9])
def test_scaling_far_from_zero_gives_identical_bits(name: str, offset: float) -> None:
    """Scaled float32 values are equal to the last bit, also far from zero, where sums lose many digits."""
    x = offset + np.random.default_rng(1).random((400, 1)) * 7
    scaler = clone(SCALERS[name]).fit(x)
    assert_same(sensitive_tree(scaler, x), double_columns(1), numeric_rows(x))


@pytest.mark.parametrize("scale", [49.0, 7.7, 1e-3])
def test_scaler_divides_instead_of_multiplying_reciprocal(scale: float) -> None:
    """A scaler divides: multiplying by the reciprocal would round values halfway between two float32 differently."""
    midpoints = 1 + (2 * np.arange(0, 2000, 5) + 1) * 2.0**-24
    scaler = StandardScaler(with_mean=False).fit(midpoints.reshape(-1, 1))
    scaler.scale_ = np.array([scale])
    unscaled = midpoints * scale
    x = np.concatenate([unscaled + step * np.spacing(unscaled) for step in range(-2, 3)]).reshape(-1, 1)
    assert ((x / scale).astype(np.float32) != (x * (1 / scale)).astype(np.float32)).any()
    assert_same(sensitive_tree(scaler, x), double_columns(1), numeric_rows(x))


SOME_SOILS, UNUSED_KIND = np.array(["sand", "clay", "never"], dtype=object), np.array(["z"], dtype=object)
# Each encoder, and whether it accepts unknown categories.
ENCODERS: dict[str, tuple[OneHotEncoder, bool]] = {
    "any": (one_hot(), True),
    "known": (one_hot(handle_unknown="error"), False),
    "without the first": (one_hot(drop="first", handle_unknown="error"), False),
    "without one of two": (one_hot(drop="if_binary", handle_unknown="error"), False),
    "any, without the first": (one_hot(drop="first"), True),
    "any, without one of two": (one_hot(drop="if_binary"), True),
    "any, without listed categories": (one_hot(drop=["sand", 3, True, "b"]), True),
    "any, listed categories": (
        one_hot(categories=[np.array(values) for values in (SOME_SOILS, [-1, 0, 4, 99], [False, True], UNUSED_KIND)]),
        True,
    ),
    "infrequent allowed, none present": (one_hot(handle_unknown="infrequent_if_exist"), True),
    "sparse": (one_hot(sparse_output=True), True),
    "32-bit floats": (one_hot(dtype=np.float32), True),
    "8-bit integers": (one_hot(dtype=np.int8), True),
}


@pytest.mark.filterwarnings("ignore:Found unknown categories")
@pytest.mark.parametrize("name", ENCODERS)
def test_one_hot_steps_give_identical_bits(name: str) -> None:
    """One-hot steps on strings, integers and booleans, with every option, give the same bits."""
    encoder, accepts_unknown = ENCODERS[name]
    estimator = fit_on_frame(columns((encoder, ["soil", "zone", "wet", "kind"]), ("passthrough", ["acid"])))
    schema = schema_of(TYPES)
    assert_same(estimator, schema, rows_of(schema, MORE if accepts_unknown else FRAME))


@pytest.mark.filterwarnings("ignore:Found unknown categories")
@pytest.mark.parametrize("options", [{}, {"drop": "first"}, {"handle_unknown": "error"}])
def test_float_categories_are_compared_in_64_bits(options: dict[str, Any]) -> None:
    """Categories that are floats are compared in 64 bits, so that the next float is an unknown category."""
    estimator = fit_on_array(columns((one_hot(**options), [3]), ("passthrough", [0, 1, 2])))
    x = MORE_X if options.get("handle_unknown") != "error" else X
    assert_same(estimator, double_columns(4), numeric_rows(x))
    next_floats = np.concatenate([X, X])
    next_floats[:COUNT, 3] = np.nextafter(X[:, 3], 1)
    if "handle_unknown" not in options:
        assert_same(estimator, double_columns(4), numeric_rows(next_floats))


def test_one_hot_on_an_object_array_selects_columns_by_index() -> None:
    """A one-hot step that was fitted on an array of objects, without names, encodes columns by their index."""
    x = FRAME[["soil", "kind"]].to_numpy(dtype=object)
    estimator = make_pipeline(one_hot(handle_unknown="error"), trees()).fit(x, LABELS)
    schema = schema_of({"soil": "string", "kind": "string"})
    compiled = engine_of(pack(estimator, schema), schema)
    assert compiled.outputs(rows_of(schema, FRAME[["soil", "kind"]])).tobytes() == estimator.predict_proba(x).tobytes()


def test_column_may_be_used_by_several_steps() -> None:
    """One column can reach the trees unchanged, scaled and one-hot encoded at the same time."""
    estimator = fit_on_array(
        columns((one_hot(), [1, 3]), (StandardScaler(), [1, 0]), ("passthrough", [1, 2]), (one_hot(), [3]))
    )
    assert_same(estimator, double_columns(4), numeric_rows(MORE_X))


def test_column_with_known_categories_may_also_pass_unchanged() -> None:
    """A column that accepts only known categories can also reach the trees unchanged."""
    estimator = fit_on_array(columns((one_hot(handle_unknown="error"), [1]), ("passthrough", [0, 1])))
    assert_same(estimator, double_columns(4), numeric_rows(X))


@pytest.mark.parametrize(
    "selection",
    [
        SelectKBest(k=3),
        VarianceThreshold(0.11),
        columns(("passthrough", [0, 2, -1])),
        columns(("drop", [1, 3, 4]), remainder="passthrough"),
        columns(("passthrough", [-1])),
    ],
)
@pytest.mark.parametrize("drop", [None, "first"])
def test_unknown_category_of_dropped_column_is_refused(selection: Any, drop: str | None) -> None:
    """A category whose feature a later step drops stays valid in requests, and an unknown one stays invalid."""
    strict = columns((one_hot(handle_unknown="error", drop=drop), [1]), ("passthrough", [0]))
    estimator = fit_on_array(strict, clone(selection))
    same_or_refused(estimator, double_columns(4), numeric_rows(X))
    with contextlib.suppress(NotCompilable), pytest.raises(InvalidRows, match=r"x1 must be one of the 7 values"):
        engine_of(pack(estimator, double_columns(4)), double_columns(4)).predict(numeric_rows([[0.0, 99.0, 0.0, 0.0]]))


@pytest.mark.parametrize("options", [{}, {"drop": "first"}, {"handle_unknown": "ignore"}])
def test_strict_column_encoded_twice_matches_scikit_learn(options: dict[str, Any]) -> None:
    """A column with only known categories that is encoded by two steps has scikit-learn's results, or is refused."""
    strict = {"handle_unknown": "error"}
    estimator = fit_on_array(
        columns((one_hot(**strict), [1]), (one_hot(**{**strict, **options}), [1]), ("passthrough", [0]))
    )
    same_or_refused(estimator, double_columns(4), numeric_rows(X))


@pytest.mark.parametrize(
    ("entries", "options"),
    [
        ([("passthrough", ["acid", "depth"])], {}),
        ([(StandardScaler(), ["zone"]), ("passthrough", ["depth"])], {}),
        ([("drop", ["soil", "kind"])], {"remainder": "passthrough"}),
        ([(one_hot(), ["soil", "kind"])], {"remainder": "passthrough"}),
        ([("drop", ["soil", "kind", "wet"])], {"remainder": StandardScaler()}),
        ([("passthrough", [6, 1, 2])], {}),
        ([("passthrough", [-1, 1, -3]), (one_hot(), [0, -2])], {}),
        ([("passthrough", slice(1, 5))], {}),
        ([("passthrough", slice("depth", "acid"))], {}),
        ([("passthrough", slice(4, None, 2)), (one_hot(), slice(None, 1))], {}),
        ([("passthrough", slice(-1, None)), (one_hot(), slice(None, "soil"))], {"sparse_threshold": 0}),
        ([("passthrough", [False, True, True, False, True, False, False])], {}),
        ([("passthrough", np.array([False, True, False, True, False, False, False])), (one_hot(), [0])], {}),
        ([("passthrough", np.array([6, 2])), (one_hot(), np.array([5]))], {}),
        ([("passthrough", pd.Index(["step", "wet"])), (one_hot(), ("kind",))], {}),
        ([("passthrough", make_column_selector(dtype_include="number")), (one_hot(), ["soil"])], {}),
        (
            [(RobustScaler(), make_column_selector("^de|^st")), (one_hot(), make_column_selector(dtype_include=bool))],
            {},
        ),
        ([("passthrough", lambda frame: list(frame.columns[[1, 4]]))], {}),
        ([("passthrough", []), (one_hot(), ["soil"]), ("drop", [])], {}),
        ([(StandardScaler(), ["depth"]), (one_hot(), ["soil"])], {"transformer_weights": None, "n_jobs": 1}),
        ([(StandardScaler(), ["depth"]), (one_hot(), ["soil"])], {"verbose_feature_names_out": False}),
    ],
)
def test_column_selections_match_scikit_learn(entries: list[tuple[Any, Any]], options: dict[str, Any]) -> None:
    """Columns selected by name, index, slice, mask, selector or remainder are the ones that scikit-learn selects."""
    entries = [(one_hot() if isinstance(step, OneHotEncoder) else step, selection) for step, selection in entries]
    estimator = fit_on_frame(columns(*entries, **options))
    if options.get("remainder") == "passthrough" and entries[0][0] == "drop":
        assert len(pack(estimator, schema_of(TYPES)).features) == 5
    # The columns soil and kind are dropped or one-hot encoded, so that no string reaches the trees.
    assert_same(estimator, schema_of(TYPES), rows_of(schema_of(TYPES), MORE))


@pytest.mark.parametrize(
    "selection", [[2, 0], slice(1, 3), [True, False, True, True], np.array([3, 1]), slice(0, None)]
)
def test_array_columns_are_selected_by_position(selection: Any) -> None:
    """Columns of an array are selected by index, slice and mask."""
    estimator = fit_on_array(columns((StandardScaler(), selection), (one_hot(), [-1])))
    assert_same(estimator, double_columns(4), numeric_rows(MORE_X))


def test_column_weights_are_applied_or_refused() -> None:
    """A ColumnTransformer with weights has scikit-learn's results, or is refused."""
    estimator = fit_on_array(columns(("passthrough", [0, 1]), (one_hot(), [3]), transformer_weights={"0": 1000.0}))
    same_or_refused(estimator, double_columns(4), numeric_rows(MORE_X))


def test_reordered_signature_selects_columns_by_name() -> None:
    """Columns are found by name if the signature has another order than the DataFrame of the fit."""
    names = list(reversed(TYPES))
    schema = schema_of({name: TYPES[name] for name in names})
    estimator = fit_on_frame(
        columns((StandardScaler(), ["depth", "acid"]), (one_hot(), ["soil", "zone"]), ("drop", ["kind"]))
    )
    assert_same(estimator, schema, rows_of(schema, MORE[names]))


def test_dropped_columns_may_be_missing_from_signature() -> None:
    """A column of the fit that the pipeline drops may be missing from the signature."""
    estimator = fit_on_frame(columns((StandardScaler(), ["depth", "acid"]), (one_hot(), ["soil"]), ("drop", ["kind"])))
    types = {name: TYPES[name] for name in ("acid", "depth", "soil")}
    assert_same(estimator, schema_of(types), rows_of(schema_of(types), MORE[list(types)]))


def test_unfitted_signature_columns_are_ignored() -> None:
    """A column of the signature that the pipeline was not fitted on has no effect."""
    estimator = make_pipeline(columns((StandardScaler(), ["depth"]), (one_hot(), [0, 1])), trees())
    estimator.fit(FRAME[["zone", "kind", "depth"]], LABELS)
    assert_same(estimator, schema_of(TYPES), rows_of(schema_of(TYPES), MORE))


def test_missing_required_column_is_named() -> None:
    """A column that the model needs and the signature lacks is named in the error."""
    types = {name: TYPES[name] for name in ("depth", "acid")}
    for steps in ([columns(("passthrough", ["zone", "acid"]))], [columns((StandardScaler(), [2]))]):
        with pytest.raises(NotCompilable, match="'zone'"):
            pack(fit_on_frame(*steps), schema_of(types))


def test_reordered_signature_keeps_columns_selected_by_index() -> None:
    """Columns selected by index in the fit are the same ones if the signature has another order, or are refused."""
    names = ["step", "acid", "zone", "depth"]
    schema = schema_of({name: TYPES[name] for name in names})
    estimator = make_pipeline(columns((StandardScaler(), [0]), ("passthrough", [2, 1])), trees())
    estimator.fit(FRAME[NUMBERS], LABELS)
    same_or_refused(estimator, schema, rows_of(schema, MORE[names]))


NESTED: dict[str, list[Any]] = {
    "nested pipelines": [make_pipeline(make_pipeline(StandardScaler()))],
    "passthrough": ["passthrough", None, make_pipeline("passthrough"), MinMaxScaler()],
    "identity functions": [FunctionTransformer(), StandardScaler(), FunctionTransformer(None)],
    "imputed": [SimpleImputer(), RobustScaler()],
    "imputed median": [StandardScaler(), SimpleImputer(strategy="median")],
    "selected": [VarianceThreshold(0.05), StandardScaler()],
    "selected after": [columns((one_hot(), [1, 3]), ("passthrough", [0, 2])), VarianceThreshold(0.1)],
    "selected best": [StandardScaler(), SelectKBest(k=2)],
    "selected by trees": [SelectFromModel(DecisionTreeClassifier(max_depth=3, random_state=0))],
    "pipelines in columns": [
        columns(
            (make_pipeline(SimpleImputer(), StandardScaler()), [0, 2]),
            (make_pipeline(SimpleImputer(strategy="most_frequent"), one_hot()), [1]),
            (Pipeline([("nothing", "passthrough")]), [3]),
        )
    ],
    "columns in columns": [columns((columns((StandardScaler(), [1]), ("passthrough", [0])), [2, 1]), (one_hot(), [3]))],
    "columns after columns": [
        columns((StandardScaler(), [3, 1]), ("passthrough", [0])),
        columns(("passthrough", [2, 0]), ("drop", [1])),
    ],
    "columns after one-hot": [
        columns((one_hot(), [1]), ("passthrough", [0, 2])),
        columns(("passthrough", [0, 5, -1]), ("passthrough", slice(6, 8))),
    ],
    "scaled after columns": [columns(("passthrough", [3, 0])), StandardScaler()],
}


@pytest.mark.parametrize("name", NESTED)
def test_nested_pipelines_compile_to_identical_bits(name: str) -> None:
    """Nested pipelines and ColumnTransformers, imputers, selectors and passthrough steps give the same bits."""
    assert_same(fit_on_array(*NESTED[name]), double_columns(4), numeric_rows(MORE_X))


def test_imputer_of_strings_needs_no_formula() -> None:
    """An imputer before a one-hot step on strings has no effect on complete rows, and is accepted."""
    imputed = make_pipeline(SimpleImputer(strategy="constant", fill_value="none"), one_hot())
    estimator = fit_on_frame(columns((imputed, ["soil", "kind"]), (SimpleImputer(), ["depth", "zone"])))
    assert_same(estimator, schema_of(TYPES), rows_of(schema_of(TYPES), MORE))


@pytest.mark.parametrize("prefixed", [True, False])
def test_columns_renamed_by_an_earlier_step_match_or_are_refused(prefixed: bool) -> None:
    """Columns selected by names that an earlier step gave them have scikit-learn's results, or are refused."""
    first = columns(
        ("passthrough", ["step", "acid"]), (StandardScaler(), ["depth"]), verbose_feature_names_out=prefixed
    )
    names = ["0__acid", "1__depth"] if prefixed else ["acid", "depth"]
    second = columns(("passthrough", names))
    estimator = fit_on_frame(first.set_output(transform="pandas"), second)
    schema = schema_of(TYPES)
    same_or_refused(estimator, schema, rows_of(schema, MORE))


def test_float32_columns_reach_trees_unchanged() -> None:
    """Columns of 32-bit floats reach the trees unchanged."""
    schema = schema_of({"depth": "float", "acid": "float", "zone": "integer"})
    frame = FRAME[["depth", "acid", "zone"]].astype({"depth": "float32", "acid": "float32", "zone": "int32"})
    for steps in ([], [columns(("passthrough", ["acid", "zone"]))], [columns((StandardScaler(), ["zone"]))]):
        assert_same(make_pipeline(*steps, trees()).fit(frame, LABELS), schema, rows_of(schema, frame * 3))


def test_integers_up_to_float64_limit_are_exact() -> None:
    """Integers up to the largest that float64 represents exactly are passed and encoded without rounding."""
    big = FRAME[["zone"]] * 2**50 + 1
    schema = schema_of({"zone": "long", "small": "integer"})
    frame = big.assign(small=np.arange(COUNT, dtype=np.int32) * 8_000_000)
    for steps in ([], [columns((one_hot(), ["zone"]), ("passthrough", ["small"]))], [StandardScaler()]):
        assert_same(make_pipeline(*steps, trees()).fit(frame, LABELS), schema, rows_of(schema, frame))


class Own(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A transformer that a user wrote."""

    def fit(self, X: Any, y: Any = None) -> Own:  # noqa: N803
        self.fitted_ = True
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803
        return X


REFUSED: dict[str, tuple[list[Any], str]] = {
    "PCA": ([PCA(2)], "the step PCA has no compiled form"),
    "own": ([Own()], "the step Own is not a class of scikit-learn's own"),
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
        "the step MinMaxScaler follows another step that changes column 'x0'",
    ),
    "scaled one-hot": (
        [columns((one_hot(), [3])), MaxAbsScaler()],
        "the step MaxAbsScaler follows another step that changes column 'x3'",
    ),
    "scaled, then one-hot": (
        [columns((make_pipeline(RobustScaler(), one_hot()), [1]))],
        "the step OneHotEncoder follows another step that changes column 'x1'",
    ),
    "infrequent": ([columns((one_hot(min_frequency=0.2), [1]))], "OneHotEncoder groups infrequent categories"),
    "most categories": ([columns((one_hot(max_categories=3), [1]))], "OneHotEncoder groups infrequent categories"),
    "indicator": ([SimpleImputer(add_indicator=True)], "SimpleImputer does more than fill NaN"),
    "other missing": ([SimpleImputer(missing_values=0)], "SimpleImputer does more than fill NaN"),
    "one column twice": (
        [columns((one_hot(handle_unknown="error"), [1, 1]))],
        "column 'x1' is one-hot encoded twice",
    ),
}


@pytest.mark.filterwarnings("ignore:Bins whose width are too small")
@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_step_is_refused_with_its_name(name: str) -> None:
    """A step without a formula is refused with its name, or with the name of the column, in one line."""
    steps, reason = REFUSED[name]
    with pytest.raises(NotCompilable) as caught:
        pack(fit_on_array(*steps), double_columns(4))
    assert str(caught.value) == reason


def test_clipping_max_abs_scaler_is_refused() -> None:
    """MaxAbsScaler with ``clip``, which recent versions of scikit-learn have, is refused."""
    if "clip" not in MaxAbsScaler().get_params():
        pytest.skip("this scikit-learn's MaxAbsScaler does not clip")
    with pytest.raises(NotCompilable, match="MaxAbsScaler has no compiled form"):
        pack(fit_on_array(MaxAbsScaler(clip=True)), double_columns(4))


def test_imputer_that_drops_a_column_is_refused() -> None:
    """An imputer that drops a column whose values were all missing in the fit is refused."""
    x = X.copy()
    x[:, 2] = np.nan
    with pytest.warns(UserWarning, match="Skipping features"):
        estimator = make_pipeline(SimpleImputer(), trees()).fit(x, LABELS)
    with pytest.raises(NotCompilable, match="SimpleImputer does more than fill NaN"):
        pack(estimator, double_columns(4))


@pytest.mark.parametrize("name", ["depth", "soil", "wet"])
def test_optional_column_is_refused_by_name(name: str) -> None:
    """An optional column is refused with its name, whether the model uses it or not."""
    estimator = fit_on_frame(columns(("passthrough", ["acid", "zone"])))
    with pytest.raises(NotCompilable, match=f"column '{name}' is optional"):
        pack(estimator, schema_of(TYPES, optional=name))


@pytest.mark.parametrize("step", [StandardScaler(), one_hot(handle_unknown="error"), MinMaxScaler()])
def test_step_on_a_float32_column_is_refused(step: Any) -> None:
    """A step that computes with a 32-bit column is refused, because scikit-learn computes it in 32 bits."""
    frame = FRAME[["step", "acid"]].astype({"step": "float32"})
    estimator = make_pipeline(columns((step, ["step"]), ("passthrough", ["acid"])), trees()).fit(frame, LABELS)
    reason = f"the step {type(step).__name__} computes column 'step' in 32 bits"
    with pytest.raises(NotCompilable, match=reason):
        pack(estimator, schema_of({"step": "float", "acid": "double"}))


def test_unencoded_string_column_is_refused() -> None:
    """A string column that no step encodes is refused with its name."""
    digits = FRAME.assign(kind=FRAME["zone"].astype(str).astype(object))[["acid", "kind"]]
    schema = schema_of({"acid": "double", "kind": "string"})
    for steps in ([], ["passthrough"], [columns(("passthrough", ["kind"]), (one_hot(), ["kind"]))]):
        estimator = make_pipeline(*steps, trees()).fit(digits, LABELS)
        with pytest.raises(NotCompilable, match="string column 'kind' reaches the trees without being encoded"):
            pack(estimator, schema)


@pytest.mark.parametrize("step", [StandardScaler(), MinMaxScaler()])
def test_scaled_string_column_is_refused(step: Any) -> None:
    """A string column of digits, which scikit-learn would convert to numbers, is refused with its name."""
    digits = FRAME.assign(kind=FRAME["zone"].astype(str).astype(object))[["acid", "kind"]]
    estimator = make_pipeline(step, trees()).fit(digits, LABELS)
    with pytest.raises(NotCompilable, match="'kind'"):
        pack(estimator, schema_of({"acid": "double", "kind": "string"}))


@pytest.mark.parametrize(
    ("type_name", "categories"),
    [
        ("string", np.array(["a", None], dtype=object)),
        ("string", np.array(["a", np.nan], dtype=object)),
        ("double", np.array([0.0, np.nan])),
        ("double", np.array(["a", "b"], dtype=object)),
    ],
)
def test_category_of_another_type_is_refused(type_name: str, categories: Any) -> None:
    """A category that no value of the column's type can equal is refused with the column's name."""
    encoder = one_hot().fit(np.resize(categories, (10, 1)))
    with pytest.raises(NotCompilable, match=r"(string|number) column 'x' has the category"):
        derive_formulas([encoder], schema_of({"x": type_name}))


def test_wrong_number_of_features_is_refused() -> None:
    """Steps that produce another number of features than the trees expect are refused."""
    estimator = fit_on_array(StandardScaler())
    with pytest.raises(NotCompilable, match="the steps produce 5 features, and the trees expect 4"):
        pack(make_pipeline("passthrough", estimator[-1]), double_columns(5))


def test_formulas_index_columns_and_category_codes() -> None:
    """A formula has the index of its column, number columns first, and the code of its category."""
    schema = schema_of({"s": "string", "a": "double", "t": "string", "b": "double"})
    frame = pd.DataFrame({"s": ["u", "v"], "a": [1.0, 3.0], "t": ["y", "x"], "b": [0.0, 1.0]})
    steps = columns(
        (one_hot(handle_unknown="error", drop="first"), ["t"]), (StandardScaler(), ["a"]), (one_hot(), ["s"])
    )
    formulas = derive_formulas([steps.fit(frame)], schema)
    assert [column.name for column in formulas.columns] == ["a", "b", "s", "t"]
    assert formulas.codes == [{"u": 0, "v": 1}, {"x": 0, "y": 1}]
    assert formulas.features == [
        Feature(kernel.EQUALS_KNOWN, 3, 1.0),
        Feature(kernel.SHIFT_DIVIDE, 0, 2.0, 1.0),
        Feature(kernel.EQUALS, 2, 0.0),
        Feature(kernel.EQUALS, 2, 1.0),
    ]
    assert formulas.unused_categories == [Feature(kernel.EQUALS_KNOWN, 3, 0.0)]


def test_reference_engine_selects_columns_by_name() -> None:
    """The sklearn engine, which these tests compare with, passes a DataFrame to a model that was fitted on one."""
    schema: InputSchema = schema_of(TYPES)
    estimator = fit_on_frame(columns(("passthrough", ["depth"])))
    rows = rows_of(schema, FRAME)
    assert SklearnEngine(estimator, schema).outputs(rows).tobytes() == estimator.predict_proba(FRAME).tobytes()


class OwnScaler(StandardScaler):  # type: ignore[misc]
    """A user's subclass of a scaler, which treats -999 as a missing value."""

    def transform(self, x: Any, copy: bool | None = None) -> Any:
        return super().transform(np.where(np.asarray(x) == -999, self.mean_, x), copy)


class OwnColumns(ColumnTransformer):  # type: ignore[misc]
    """A user's subclass of ColumnTransformer."""


class OwnPipeline(Pipeline):  # type: ignore[misc]
    """A user's subclass of Pipeline, which predicts a constant."""

    def predict(self, X: Any, **options: Any) -> Any:  # noqa: N803
        return super().predict(X, **options) * 0 + 7


@pytest.mark.parametrize(
    "estimator",
    [
        fit_on_array(OwnScaler()),
        fit_on_array(OwnColumns([("0", "passthrough", [0, 1])])),
        fit_on_array(columns((OwnScaler(), [0, 1]))),
        OwnPipeline([("trees", trees())]).fit(X, LABELS),
    ],
)
def test_subclass_of_a_step_is_refused_by_name(estimator: Any) -> None:
    """A user's subclass of a scikit-learn class may compute anything, and is refused with its name."""
    with pytest.raises(NotCompilable, match="Own"):
        pack(estimator, double_columns(4))


def test_sklearn_engine_uses_an_overridden_predict() -> None:
    """The sklearn engine serves a pipeline that overrides ``predict`` with its own results."""
    estimator = OwnPipeline([("trees", trees())]).fit(X, LABELS)
    assert set(SklearnEngine(estimator, double_columns(4)).predict(numeric_rows(X)).labels) == set(
        estimator.predict(X).tolist()
    )


@pytest.mark.parametrize("value", [3.5e38, 1e39, -1e300])
def test_number_beyond_float32_is_a_client_error(value: float) -> None:
    """A number beyond the range of float32 is refused as the client's error, with the name of its column."""
    engine = engine_of(pack(fit_on_array("passthrough"), double_columns(4)), double_columns(4))
    rows = X[:3].copy()
    rows[1, 2] = value
    with pytest.raises(InvalidRows, match="x2 is too large for the model"):
        engine.predict(numeric_rows(rows))
    rows[1, 2] = float(np.finfo(np.float32).max)
    assert len(engine.predict(numeric_rows(rows)).labels) == 3
