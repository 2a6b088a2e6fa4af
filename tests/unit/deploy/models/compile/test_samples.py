"""Tests of the rows that a compiled model is checked on: read from a CSV file, or drawn at random."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import ExtraTreesClassifier, RandomForestRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, OneHotEncoder, RobustScaler, StandardScaler

from deploy.errors import CommandError
from deploy.models.compile.packing import pack
from deploy.models.compile.samples import draw_rows, read_csv
from server.engines.sklearn import SklearnEngine
from server.inference.rows import Rows
from server.inference.schema import InputSchema
from server.inference.signature import schema_from_signature
from tests.support.models.forests import double_columns, numeric_rows, rows_of, schema_of, trees_of

TYPES = {"soil": "string", "depth": "double", "zone": "long", "wet": "boolean", "acid": "double"}
RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "soil": RNG.choice(np.array(["clay", "sand", "loam"], dtype=object), 90),
        "depth": RNG.normal(size=90) * 100,
        "zone": RNG.integers(1, 5, 90),
        "wet": RNG.random(90) > 0.5,
        "acid": RNG.random(90),
    }
)
LABELS = (FRAME["zone"] + FRAME["wet"] + (FRAME["depth"] > 0)).to_numpy() % 3
SCHEMA = schema_of(TYPES)
EXAMPLE = rows_of(SCHEMA, FRAME[:1])


def model(*entries: tuple[Any, Any], frame: pd.DataFrame = FRAME) -> Pipeline:
    columns = ColumnTransformer([(str(i), step, chosen) for i, (step, chosen) in enumerate(entries)])
    return make_pipeline(columns, ExtraTreesClassifier(5, max_depth=4, random_state=0)).fit(frame, LABELS)


def one_hot(**options: Any) -> OneHotEncoder:
    return OneHotEncoder(sparse_output=False, **options)


def json_rows(schema: InputSchema, rows: Rows) -> list[list[object]]:
    """Return the rows as the JSON lists of a request, in signature order."""
    json_rows = []
    for values, strings in zip(rows.numbers.tolist(), rows.objects.tolist(), strict=True):
        numbers, objects = iter(values), iter(strings)
        row = [next(objects) if column.is_string else next(numbers) for column in schema.columns]
        json_rows.append([bool(x) if c.type == "boolean" else x for c, x in zip(schema.columns, row, strict=True)])
    return json_rows


def assert_valid(schema: InputSchema, rows: Rows) -> None:
    query = schema.parse({"instances": json_rows(schema, rows)}, len(rows))
    assert schema.to_rows(query.values).numbers.tobytes() == rows.numbers.tobytes()


MODELS = {
    "unchanged": model(("passthrough", ["depth", "zone", "wet", "acid"])),
    "any category": model((one_hot(handle_unknown="ignore"), ["soil", "zone", "wet"]), ("passthrough", ["acid"])),
    "known categories": model((one_hot(), ["soil", "zone", "wet"]), ("passthrough", ["acid", "depth"])),
    "known, without the first": model((one_hot(drop="first"), ["zone", "soil"]), ("passthrough", ["acid", "depth"])),
    "known, and unchanged": model((one_hot(), ["zone", "soil"]), ("passthrough", ["zone"])),
    "scaled": model((StandardScaler(), ["depth", "zone"]), (MinMaxScaler(), ["acid", "wet"])),
    "scaled by range": model((RobustScaler(), ["depth", "zone"]), (MaxAbsScaler(), ["acid"])),
}


@pytest.mark.parametrize("name", MODELS)
def test_drawn_rows_are_valid(name: str) -> None:
    """Drawn rows start with the example, and each is a valid request that the model can predict."""
    rows = draw_rows(SCHEMA, EXAMPLE, pack(MODELS[name], SCHEMA), 500)
    assert len(rows) == 501
    assert rows.numbers[:1].tobytes() == EXAMPLE.numbers.tobytes()
    assert rows.objects[0] == EXAMPLE.objects[0]
    assert_valid(SCHEMA, rows)
    assert len(SklearnEngine(MODELS[name], SCHEMA).predict(rows).labels) == 501


@pytest.mark.parametrize("name", ["unchanged", "scaled", "scaled by range"])
def test_rows_lie_on_both_sides_of_each_split(name: str) -> None:
    """Each split of each tree has drawn rows on both sides."""
    estimator = MODELS[name]
    rows = draw_rows(SCHEMA, EXAMPLE, pack(estimator, SCHEMA))
    frame = pd.DataFrame(json_rows(SCHEMA, rows), columns=list(TYPES)).astype({"zone": int, "wet": bool})
    features = estimator[:-1].transform(frame).astype(np.float32)
    splits = 0
    for tree in trees_of(estimator):
        for feature, threshold in zip(tree.feature, tree.threshold, strict=True):
            if feature >= 0:
                splits += 1
                assert (features[:, feature] <= threshold).any()
                assert (features[:, feature] > threshold).any()
    assert splits > 30


def test_samples_lie_on_and_above_each_split() -> None:
    """A column that reaches the trees unchanged has drawn values exactly on each split, and just above it."""
    x = FRAME[["depth", "acid"]].to_numpy()
    estimator = RandomForestRegressor(2, max_depth=4, random_state=0).fit(x, LABELS)
    values = draw_rows(double_columns(2), numeric_rows([[0.0, 0.0]]), pack(estimator, double_columns(2))).numbers
    for tree in trees_of(estimator):
        for feature, threshold in zip(tree.feature, tree.threshold, strict=True):
            if feature >= 0:
                nearest = np.float32(threshold)
                below = nearest if nearest <= threshold else np.nextafter(nearest, np.float32(-np.inf))
                assert float(below) in values[:, feature]
                assert float(np.nextafter(below, np.float32(np.inf))) in values[:, feature]


def test_every_category_is_drawn() -> None:
    """Each category is drawn, and also an unknown one if the model accepts any."""
    rows = draw_rows(SCHEMA, EXAMPLE, pack(MODELS["any category"], SCHEMA))
    assert {"clay", "sand", "loam"} < set(rows.objects[:, 0])  # more than these
    assert {1, 2, 3, 4} < set(rows.numbers[:, 1])
    strict = draw_rows(SCHEMA, EXAMPLE, pack(MODELS["known categories"], SCHEMA))
    assert set(strict.objects[:, 0]) == {"clay", "sand", "loam"}
    assert set(strict.numbers[:, 1]) == {1, 2, 3, 4}


@pytest.mark.parametrize("unknown", [{"soil": "string"}, {"zone": 0}, {"zone": 9, "soil": ""}])
@pytest.mark.parametrize("name", ["known categories", "known, and unchanged"])
def test_unknown_example_category_is_replaced(name: str, unknown: dict[str, Any]) -> None:
    """If the example, which may be generated, has an unknown category that the model rejects, it is left out."""
    estimator = MODELS[name]
    rows = draw_rows(SCHEMA, rows_of(SCHEMA, FRAME[:1].assign(**unknown)), pack(estimator, SCHEMA), 200)
    assert len(SklearnEngine(estimator, SCHEMA).predict(rows).labels) >= 200


def test_drawn_values_stay_within_declared_ranges() -> None:
    """Drawn values stay within the ranges of the model's metadata, and integer columns get whole numbers."""
    inputs = [{"name": name, "type": type_name} for name, type_name in TYPES.items()]
    schema = schema_from_signature(inputs, {"depth": [-10, 10.5], "zone": [2, 3]})
    example = rows_of(schema, FRAME[:1].assign(depth=0.0, zone=2))
    for name in ("unchanged", "any category", "scaled"):
        rows = draw_rows(schema, example, pack(MODELS[name], schema))
        assert_valid(schema, rows)
        assert set(rows.numbers[:, 1]) == {2, 3}
        assert len(set(rows.numbers[:, 0])) > 1 or name != "unchanged"


@pytest.mark.parametrize("size", [1e-30, 1e30, 3e38])
def test_samples_surround_splits_of_any_magnitude(size: float) -> None:
    """Rows are drawn around splits of any magnitude that a float32 can hold."""
    x = np.linspace(-1, 1, 90).reshape(-1, 1)
    estimator = make_pipeline(StandardScaler(), RandomForestRegressor(3, max_depth=4, random_state=0)).fit(
        x * size, LABELS
    )
    rows = draw_rows(double_columns(1), numeric_rows([[size / 3]]), pack(estimator, double_columns(1)))
    assert_valid(double_columns(1), rows)
    assert rows.numbers.min() < -size / 2 < size / 2 < rows.numbers.max()


@pytest.mark.parametrize("type_name", ["integer", "long", "float", "double", "boolean"])
def test_unused_columns_get_a_value(type_name: str) -> None:
    """A column that no tree splits on still gets a valid value."""
    estimator = RandomForestRegressor(2, random_state=0).fit([[0.0, 0.0], [0.0, 1.0]], [0.0, 1.0])
    schema = schema_of({"unused": type_name, "x": "double"})
    assert_valid(schema, draw_rows(schema, numeric_rows([[1.0, 0.5]]), pack(estimator, schema), 50))


def test_drawn_rows_are_reproducible() -> None:
    """Drawing twice for the same model returns the same rows."""
    packed = pack(MODELS["any category"], SCHEMA)
    first, second = (draw_rows(SCHEMA, EXAMPLE, packed, 100) for _ in range(2))
    assert first.numbers.tobytes() == second.numbers.tobytes()
    assert first.objects.tolist() == second.objects.tolist()


@pytest.mark.parametrize("limits", [{}, {"depth": [-3, 3], "zone": [1, 4]}])
def test_samples_without_forest_use_ranges_and_example(limits: dict[str, Any]) -> None:
    """Without a packed forest, rows are drawn from the declared ranges and around the example."""
    inputs = [{"name": name, "type": type_name} for name, type_name in TYPES.items()]
    schema = schema_from_signature(inputs, limits)
    rows = draw_rows(schema, rows_of(schema, FRAME[:1].assign(depth=1.0)), None, 300)
    assert len(rows) == 301
    assert_valid(schema, rows)
    assert all(len(set(column)) > 1 for column in rows.numbers.T)


def csv(folder: Path, text: str, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_csv_columns_are_matched_by_name(tmp_path: Path) -> None:
    """The schema's columns are found by name, in any order, and other columns are ignored."""
    frame = FRAME.assign(label=LABELS, note=None)[["note", "acid", "wet", "label", "zone", "depth", "soil"]]
    frame.to_csv(tmp_path / "rows.csv", index=False)
    rows, expected = read_csv(tmp_path / "rows.csv", SCHEMA), rows_of(SCHEMA, FRAME)
    assert rows.numbers.tobytes() == expected.numbers.tobytes()
    assert rows.objects.tolist() == expected.objects.tolist()


def test_compressed_csv_is_read(tmp_path: Path) -> None:
    """A CSV file that is compressed with gzip is read."""
    FRAME.to_csv(tmp_path / "rows.csv.gz", index=False)
    assert len(read_csv(tmp_path / "rows.csv.gz", SCHEMA)) == 90


@pytest.mark.parametrize(
    "values", [["1", "2"], ["01", "02"], ["1.50", "2"], ["NA", "ok"], ["None", "nan"], ["true", "x"]]
)
def test_strings_are_read_unchanged(tmp_path: Path, values: list[str]) -> None:
    """Strings are read as they are in the file, even if they look like numbers or like missing values."""
    path = csv(tmp_path, "x,s\n" + "".join(f"{i},{value}\n" for i, value in enumerate(values)))
    rows = read_csv(path, schema_of({"s": "string", "x": "double"}))
    assert rows.objects.tolist() == [[value] for value in values]
    assert rows.numbers.tolist() == [[0.0], [1.0]]


def test_numbers_are_read_exactly(tmp_path: Path) -> None:
    """Numbers are read to the last bit, and 3.0 is accepted as a whole number."""
    values = [0.1, 1 / 3, 1e-300, 123456789.123456789, 5e-324, 1.7976931348623157e308]
    path = csv(tmp_path, "x,n\n" + "".join(f"{value!r},{i}.0\n" for i, value in enumerate(values)))
    rows = read_csv(path, schema_of({"x": "double", "n": "long"}))
    assert rows.numbers.tolist() == [[value, i] for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x\n1\n", "column 'n' is missing; expected x, n$"),
        ("X,n\n1,1\n", "column 'x' is missing; expected x, n$"),
        ("x,n\n1,1\n2,2.5\n", r"1\.n must be a whole number, got 2\.5$"),
        ("x,n\n1,1\n2,2\ntall,3\n", r'2\.x must be a number.*, got "tall"$'),
        ("x,n\n1,1\n,2\n", r"1\.x must be a number.*, got null$"),
        ("x,n\n1,99999999999999999999\n", r"0\.n must be a whole number from .*, got 1e\+20$"),
        ("x,n\n1e999,1\n", r"0\.x must be a number from .*, got inf$"),
        ("x,n\n", "must be a list of at least one row"),
        ("", "cannot be read as CSV: No columns to parse from file$"),
        ('x,n\n"1,1\n', "cannot be read as CSV: "),
        ("x,n\n1,1\n1,2,3\n", "cannot be read as CSV: "),
    ],
    ids=repr,
)
def test_invalid_value_names_file_row_and_column(tmp_path: Path, text: str, message: str) -> None:
    """The error for a file with invalid rows is one line that names the file, the row and the column."""
    path = csv(tmp_path, text)
    with pytest.raises(CommandError, match=message) as caught:
        read_csv(path, schema_of({"x": "double", "n": "long"}))
    assert str(caught.value).startswith(f"DATA={path}: ")
    assert "\n" not in str(caught.value)


def test_row_longer_than_the_header_shifts_no_column(tmp_path: Path) -> None:
    """A row with more cells than the header is refused, or its first cells are read by the header."""
    path = csv(tmp_path, "x,n\n0.5,1,8\n1.5,2,9\n")
    try:
        rows = read_csv(path, schema_of({"x": "double", "n": "long"}))
    except CommandError:
        return
    assert rows.numbers.tolist() == [[0.5, 1.0], [1.5, 2.0]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv.gz", b"not compressed"),
        ("rows.csv.gz", gzip.compress(b"x,n\n" + b"1,1\n" * 1000, mtime=0)[:-20]),
        ("rows.csv.gz", gzip.compress(bytes(range(256)) * 50, mtime=0)[:40] + b"\xff" * 60),
        ("rows.csv.zip", b"not compressed"),
        ("rows.csv.bz2", b"not compressed"),
        ("rows.csv.xz", b"not compressed"),
        ("rows.csv", b"x,n\n\xff\xfe,1\n"),
        ("rows.csv", b"\x00\x01\x02"),
    ],
    ids=["gz: other", "gz: short", "gz: damaged", "zip: other", "bz2: other", "xz: other", "encoding", "bytes"],
)
def test_damaged_file_is_named_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    """The error for a file that is damaged, or not in the format of its extension, is one line that names it."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CommandError) as caught:
        read_csv(path, schema_of({"x": "double", "n": "long"}))
    assert str(caught.value).startswith(f"DATA={path}: ")
    assert "\n" not in str(caught.value)


def test_missing_file_is_named_in_one_line(tmp_path: Path) -> None:
    """The error for a missing file, or for a folder, is one line that names it."""
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(CommandError, match=f"DATA={path}: cannot be read as CSV: "):
            read_csv(path, SCHEMA)


@pytest.mark.parametrize(("width", "drawn"), [(54, 4096), (2048, 2048), (20_000, 256)])
def test_wide_models_are_checked_on_fewer_rows(width: int, drawn: int) -> None:
    """The number of values is bounded, so that checking a model of thousands of columns does not take gigabytes."""
    schema = schema_from_signature([{"type": "double", "name": f"x{i}"} for i in range(width)], {})
    example = schema.to_rows([[0.0] * width])
    assert len(draw_rows(schema, example, None)) == 1 + drawn
