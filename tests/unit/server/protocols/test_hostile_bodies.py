"""Unusual and malicious bodies: each is answered or rejected briefly, and its cost is limited by its size."""

from __future__ import annotations

import io
import json
import random
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from server.errors import InvalidBody, InvalidRows, RequestError
from server.http.app import create_app
from server.inference.faults import MAX_FAULTS
from server.protocols import csv_parquet
from server.settings import Settings
from tests.support.models import small_models

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette prefers httpx2, and warns about httpx.
    from starlette.testclient import TestClient

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
MAX_ROWS = 100
MODEL = small_models.mixed()
SCHEMA = MODEL.schema.lenient()
ROW: dict[str, Any] = MODEL.example
NAMES = list(ROW)
WIDTH = len(NAMES)
LONG = "A" * 100_000
HEADER = ",".join(NAMES) + "\n"
NUMBERS = [
    "1" + "0" * 400, "-1" + "0" * 400, "1e400", "1" * 5000, "0." + "1" * 5000, "1e-400", "-0.0", "NaN", "Infinity",
    "-Infinity", str(2**63), str(2**64), "1e", "01", "1_0", "0x10", "+1", ".5",
]  # fmt: skip
TEXTS = ["\u0661\u0662", "\uff11", "\u00a01", "\ufeff1", "1\x00", "infinity", "nan", "1_000", "\u00bd", "TRUE", ""]


def columns_of(value: str) -> str:
    """Return a body with one row as columns by name, each with the same JSON value."""
    return '{"inputs": {' + ", ".join(f"{json.dumps(name)}: [{value}]" for name in NAMES) + "}}"


def row_of(value: str) -> str:
    """Return one row as an object whose values are all the same JSON value."""
    return "{" + ", ".join(f"{json.dumps(name)}: {value}" for name in NAMES) + "}"


def json_bodies() -> Iterator[str | bytes]:
    """Yield JSON bodies for all protocols."""
    for depth in (1000, 1025, 50_000):
        yield "[" * depth + "]" * depth
        yield '{"a":' * depth + "1" + "}" * depth
        for key in ("instances", "inputs", "dataframe_records", "dataframe_split", "params", "features"):
            yield f'{{"{key}": ' + "[" * depth + "]" * depth + "}"
        yield '{"dataframe_split": {"columns": ' + "[" * depth + "]" * depth + ', "data": [[1]]}}'
    for number in (*NUMBERS, *(json.dumps(text) for text in TEXTS), '"' + "1" * 5000 + '"', "[]", "{}", "null", "true"):
        yield columns_of(number)
        yield row_of(number)
        yield '{"instances": [' + row_of(number) + "]}"
    for split in ({"columns": [LONG], "data": [[1]]}, {"columns": [LONG] * 2, "data": [[1, 1]]}):
        yield json.dumps({"dataframe_split": split})
    yield json.dumps({"dataframe_split": {"columns": [{"a": 1}, [2], None], "data": [[1, 1, 1]]}})
    yield from map(json.dumps, ({LONG: 1}, {"instances": [{LONG: 1}]}, {"instances": LONG}, {"inputs": {LONG: [1]}}))
    yield from map(json.dumps, ({"instances": [ROW], "params": LONG}, {**ROW, NAMES[0]: LONG}, LONG, [LONG], {}, []))
    yield '{"instances": 1, "instances": [' + json.dumps(ROW) + "]}"
    yield '{"instances": [{"\\ud800": "\\udfff"}]}'
    yield b'{"instances": [{"\xed\xa0\x80": 1}]}'
    yield from (b"\xef\xbb\xbf" + json.dumps(ROW).encode(), json.dumps(ROW).encode("utf-16"), b"\xe9", b"\x00" * 100)
    yield from (json.dumps(ROW) + "\x00", "", " " * 1000, "/* */ {}", "nul", '{"a":')


def csv_bodies() -> Iterator[str | bytes]:
    """Yield bodies that are CSV or resemble it."""
    for number in (*NUMBERS, *TEXTS, "1.0e308", "1" * 5000 + ".0"):
        yield HEADER + ",".join([number] * WIDTH)
    yield from (
        "," * 100_000,
        HEADER + "," * 100_000,
        HEADER + "\n" * 100_000,
        HEADER + "\r" * 1000,
        "\n\n",
        "",
        HEADER,
    )
    yield from ('"' * 99_999, '"' + LONG, HEADER + '"' + LONG, HEADER + '"a"b,1', HEADER + 'a"b"c', HEADER + '"a\nb"')
    yield from (HEADER + "\x00,1", "\x00\n1", "\ufeff" + HEADER + "1", "\ufeff\ufeff" + HEADER + "1")
    yield from (HEADER.encode("utf-16"), b"\xe9,b\n1,2", f"{NAMES[0]},{NAMES[0]}\n1,2")
    yield from (f"{LONG},{LONG}\n1,2", HEADER + "a" * 131_073, "a" * 131_073 + "\n1", HEADER + "1\n" * (MAX_ROWS + 1))


def tensor(**changed: object) -> dict[str, Any]:
    """Return one tensor for all columns, with some keys changed."""
    return {"name": "all", "shape": [1, WIDTH], "datatype": "FP64", "data": [1] * WIDTH, **changed}


def tensor_bodies() -> Iterator[str | bytes]:
    """Yield bodies for the Open Inference Protocol."""
    shapes: tuple[object, ...] = (
        [0], [0, 0], [0, WIDTH], [WIDTH, 0], [10**9, WIDTH], [10**9], [2**63, 2**63], [-1, WIDTH], [1.5], [True], [],
        [1, 1, WIDTH], ["1"], None, {}, LONG, [None], [1e308, 1e308], [1] * 10_000, [[1]], [0, 10**18],
    )  # fmt: skip
    datas: tuple[object, ...] = ([], [1], [1] * WIDTH, [[]], [[1] * WIDTH], [[]] * 1000)
    for shape, data in product(shapes, datas):
        yield json.dumps({"inputs": [tensor(shape=shape, data=data)]})
    yield '{"inputs": [{"name": "a", "shape": [1' + "0" * 400 + ', 2], "datatype": "FP64", "data": [1]}]}'
    datatypes: tuple[object, ...] = (
        "BOOL",
        "UINT64",
        "INT8",
        "FP16",
        "FP64",
        "BYTES",
        "BF16",
        "",
        None,
        1,
        LONG,
        [],
        {},
    )
    for datatype, number in product(datatypes, (*NUMBERS, "true", "null", '"' + LONG[:1000] + '"', "[]", "{}")):
        yield json.dumps({"inputs": [tensor(datatype=datatype, data=["?"] * WIDTH)]}).replace('"?"', number)
    names: tuple[object, ...] = ("", None, 1, LONG, "a/b", "\x00", [], {})
    for name in names:
        yield json.dumps({"inputs": [tensor(name=name)]})
        yield json.dumps({"inputs": [tensor(name=NAMES[0], shape=[1], data=[1])] * 2, "outputs": [{"name": name}]})
        yield json.dumps({"inputs": [tensor()], "id": name})
    invalid: tuple[object, ...] = ([], None, {}, LONG, [None] * 1000, [{}], [[]], 1)
    for value in invalid:
        yield json.dumps({"inputs": value})
        yield json.dumps({"inputs": [tensor(data=value)], "outputs": value, "parameters": value})
    for depth in (10, 1000, 50_000):
        yield json.dumps({"inputs": [tensor(data="?")]}).replace('"?"', "[" * depth + "]" * depth)


def parquet_of(columns: Mapping[str, Any]) -> bytes:
    """Return a Parquet file with these columns."""
    file = io.BytesIO()
    parquet.write_table(pa.table(dict(columns)), file)
    return file.getvalue()


def parquet_bodies() -> Iterator[str | bytes]:
    """Yield Parquet files with column types that no model has, without columns or rows, and broken ones."""
    full = {name: [ROW.get(name)] for name in NAMES}
    days, dates = pa.array([2**31 - 1], pa.date32()), pa.array([2**62], pa.timestamp("ms"))
    unusual = ([[1]], [{"a": 1}], [b"A" * 100_000], [LONG], days, dates, pa.array([float("nan")]), pa.array([None]))
    for name in ("colour", "size", "count", "flag", "note", "level"):
        for values in unusual:
            yield parquet_of({**full, name: values})
    yield from (
        parquet_of({}),
        parquet_of({name: [] for name in NAMES}),
        parquet_of({LONG: [1]}),
        "",
        "PAR1" + "\0" * 99 + "PAR1",
    )


CASES: dict[str, dict[str, Callable[[], Iterable[str | bytes]]]] = {
    "/predict": {JSON: json_bodies},
    "/invocations": {JSON: json_bodies, CSV: csv_bodies, PARQUET: parquet_bodies},
    "/v2/models/mixed/infer": {JSON: lambda: (*json_bodies(), *tensor_bodies())},
}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    settings = Settings.from_env({"MAX_PENDING": str(MAX_ROWS)})
    with TestClient(create_app(settings, MODEL), raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "media_type"), [(path, media_type) for path, media_types in CASES.items() for media_type in media_types]
)
def test_hostile_body_never_causes_a_5xx(client: TestClient, path: str, media_type: str) -> None:
    """A hostile body is answered or rejected, never with a 5xx, and the error repeats little of it."""
    for body in CASES[path][media_type]():
        answer = client.post(path, content=body, headers={"content-type": media_type})
        assert answer.status_code in (200, 400, 422), (answer.status_code, answer.text[:300], body[:300])
        assert not re.search(r"A{101}|1{101}|0{101}", answer.text), body[:300]
        assert len(answer.text) < 10_000, body[:300]


@pytest.mark.parametrize("path", CASES)
@pytest.mark.parametrize(
    "header", ["", "A" * 5000, "application/json;" * 1000, "\xff\xfe", "application/json; charset=x", ";"]
)
def test_hostile_content_type_never_causes_a_5xx(client: TestClient, path: str, header: str) -> None:
    """A hostile Content-Type is taken for JSON or rejected, and the error repeats little of it."""
    answer = client.post(path, content=b"{}", headers={b"content-type": header.encode("latin-1")})
    assert answer.status_code in (400, 415, 422)
    assert len(answer.text) < 1000


def test_short_csv_rows_are_not_padded_to_a_wide_header() -> None:
    """Short rows under a wide header have only the model's columns, so they do not multiply the memory."""
    wide = [*NAMES, *(f"c{i}" for i in range(1000)), NAMES[0]]
    values = ",".join(str(ROW[name] if ROW[name] is not None else "") for name in NAMES)
    table = csv_parquet.read_csv((",".join(wide) + f"\n{values}" * 50).encode(), SCHEMA, MAX_ROWS)
    assert {len(row) for row in table.rows} == {WIDTH}
    assert MODEL.schema.lenient().parse_table(table, MAX_ROWS)[49] == [ROW[name] for name in NAMES]


def test_split_columns_must_be_names_or_numbers(client: TestClient) -> None:
    """The columns of dataframe_split may be strings or numbers; lists and objects are rejected."""
    data = [[1, 2]]
    for columns, reason in (([0, 1.5], "missing"), ([["a"], 0], "columns.0 must be a name, got a list of 1")):
        answer = client.post("/invocations", json={"dataframe_split": {"columns": columns, "data": data}})
        assert answer.status_code == 400
        assert reason in answer.json()["message"]


def test_unknown_features_are_listed_up_to_a_limit(client: TestClient) -> None:
    """An error for thousands of unknown features lists only the first few."""
    extra = dict.fromkeys(map(str, range(5000)), 1)
    for document in ({**ROW, **extra}, {"instances": [ROW], **extra}, {"instances": [{**ROW, **extra}]}):
        answer = client.post("/predict", json=document)
        assert (answer.status_code, len(answer.json()["errors"])) == (422, MAX_FAULTS)


def test_parquet_rows_are_counted_before_they_are_read() -> None:
    """A small file with too many rows is rejected by the number of rows in its metadata."""
    body = parquet_of({"size": pa.nulls(3_000_000, pa.float64())})
    assert len(body) < 10_000
    with pytest.raises(InvalidRows, match="at most 100 rows, got 3000000"):
        csv_parquet.read_parquet(body, SCHEMA, MAX_ROWS)


def test_parquet_strings_are_limited_in_uncompressed_size() -> None:
    """A long string that every row shares makes a small file, which is rejected by its uncompressed size."""
    strings = pa.DictionaryArray.from_arrays(pa.array([0] * MAX_ROWS), pa.array(["x" * 1_000_000]))
    body = parquet_of({"colour": strings})
    assert len(body) < 200_000
    with pytest.raises(InvalidBody, match="uncompressed size of 100000000 bytes"):
        csv_parquet.read_parquet(body, SCHEMA, MAX_ROWS)


def test_parquet_size_is_checked_before_it_is_read() -> None:
    """A file with highly compressed pages is rejected by the uncompressed size in its metadata."""
    body = parquet_of({f"c{i}": pa.array([bytes(1_000_000)] * 1) for i in range(100)})
    assert len(body) < 10_000_000
    with pytest.raises(InvalidBody, match="uncompressed size"):
        csv_parquet.read_parquet(body, SCHEMA, MAX_ROWS)


def test_parquet_dictionary_strings_and_nan_are_read_as_in_pandas() -> None:
    """Strings with or without a dictionary are read, NaN and null become None, and unknown columns are skipped."""
    encoded = pa.DictionaryArray.from_arrays(pa.array([1, None, 0]), pa.array(["a", "b"]))
    columns = {"note": encoded, "colour": ["x", "y", "x"], "size": [1.5, float("nan"), None], "unknown": [1, 2, 3]}
    table = csv_parquet.read_parquet(parquet_of(columns), SCHEMA, MAX_ROWS)
    assert dict(zip(table.names, zip(*table.rows, strict=True), strict=True)) == {
        "colour": ("x", "y", "x"),
        "size": (1.5, None, None),
        "note": ("b", None, "a"),
    }


def test_corrupt_parquet_is_read_or_rejected() -> None:
    """A Parquet file with random bytes changed is read or raises a RequestError, and nothing else."""
    rng = random.Random(0)
    intact = parquet_of({name: [ROW.get(name)] for name in NAMES} | {"size": pa.array([1], pa.date32())})
    for _ in range(300):
        body = bytearray(intact)
        for _ in range(rng.randint(1, 3)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        try:
            csv_parquet.read_parquet(bytes(body), SCHEMA, MAX_ROWS)
        except RequestError:
            continue
