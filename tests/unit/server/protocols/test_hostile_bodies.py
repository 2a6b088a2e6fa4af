"""Bodies that nobody thinks of: refused in a few words, or answered, at a cost that only grows with the body."""

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
from server.inference.schema import MAX_FAULTS
from server.protocols import csv_parquet
from server.settings import Settings
from tests.support.models import small_models

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Starlette would rather have httpx2, and still takes httpx
    from starlette.testclient import TestClient

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"
MAX_ROWS = 100
MODEL = small_models.mixed()
COLUMNS = MODEL.schema.lenient().columns
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
    """One row by columns, each of which has the same JSON value."""
    return '{"inputs": {' + ", ".join(f"{json.dumps(name)}: [{value}]" for name in NAMES) + "}}"


def row_of(value: str) -> str:
    """One row, each of whose values is the same JSON value."""
    return "{" + ", ".join(f"{json.dumps(name)}: {value}" for name in NAMES) + "}"


def in_json() -> Iterator[str | bytes]:
    """For any protocol."""
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


def in_csv() -> Iterator[str | bytes]:
    """Of a header and rows, or what looks like it."""
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
    """One tensor for all columns, with something about it changed."""
    return {"name": "all", "shape": [1, WIDTH], "datatype": "FP64", "data": [1] * WIDTH, **changed}


def in_tensors() -> Iterator[str | bytes]:
    """For the Open Inference Protocol."""
    shapes: tuple[object, ...] = (
        [0], [0, 0], [0, WIDTH], [WIDTH, 0], [10**9, WIDTH], [10**9], [2**63, 2**63], [-1, WIDTH], [1.5], [True], [],
        [1, 1, WIDTH], ["1"], None, {}, LONG, [None], [1e308, 1e308], [1] * 10_000, [[1]], [0, 10**18],
    )  # fmt: skip
    datas: tuple[object, ...] = ([], [1], [1] * WIDTH, [[]], [[1] * WIDTH], [[]] * 1000)
    for shape, data in product(shapes, datas):
        yield json.dumps({"inputs": [tensor(shape=shape, data=data)]})
    yield '{"inputs": [{"name": "a", "shape": [1' + "0" * 400 + ', 2], "datatype": "FP64", "data": [1]}]}'
    kinds: tuple[object, ...] = ("BOOL", "UINT64", "INT8", "FP16", "FP64", "BYTES", "BF16", "", None, 1, LONG, [], {})
    for kind, number in product(kinds, (*NUMBERS, "true", "null", '"' + LONG[:1000] + '"', "[]", "{}")):
        yield json.dumps({"inputs": [tensor(datatype=kind, data=["?"] * WIDTH)]}).replace('"?"', number)
    names: tuple[object, ...] = ("", None, 1, LONG, "a/b", "\x00", [], {})
    for name in names:
        yield json.dumps({"inputs": [tensor(name=name)]})
        yield json.dumps({"inputs": [tensor(name=NAMES[0], shape=[1], data=[1])] * 2, "outputs": [{"name": name}]})
        yield json.dumps({"inputs": [tensor()], "id": name})
    odds: tuple[object, ...] = ([], None, {}, LONG, [None] * 1000, [{}], [[]], 1)
    for odd in odds:
        yield json.dumps({"inputs": odd})
        yield json.dumps({"inputs": [tensor(data=odd)], "outputs": odd, "parameters": odd})
    for depth in (10, 1000, 50_000):
        yield json.dumps({"inputs": [tensor(data="?")]}).replace('"?"', "[" * depth + "]" * depth)


def written(columns: Mapping[str, Any]) -> bytes:
    """A Parquet file."""
    file = io.BytesIO()
    parquet.write_table(pa.table(dict(columns)), file)
    return file.getvalue()


def in_parquet() -> Iterator[str | bytes]:
    """Columns of types that no model has, and no columns."""
    full = {name: [ROW.get(name)] for name in NAMES}
    days, dates = pa.array([2**31 - 1], pa.date32()), pa.array([2**62], pa.timestamp("ms"))
    odd = ([[1]], [{"a": 1}], [b"A" * 100_000], [LONG], days, dates, pa.array([float("nan")]), pa.array([None]))
    for name in ("colour", "size", "count", "flag", "note", "level"):
        for values in odd:
            yield written({**full, name: values})
    yield from (
        written({}),
        written({name: [] for name in NAMES}),
        written({LONG: [1]}),
        "",
        "PAR1" + "\0" * 99 + "PAR1",
    )


CASES: dict[str, dict[str, Callable[[], Iterable[str | bytes]]]] = {
    "/predict": {JSON: in_json},
    "/invocations": {JSON: in_json, CSV: in_csv, PARQUET: in_parquet},
    "/v2/models/mixed/infer": {JSON: lambda: (*in_json(), *in_tensors())},
}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    settings = Settings.from_env({"MAX_PENDING": str(MAX_ROWS)})
    with TestClient(create_app(settings, MODEL), raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize(("path", "kind"), [(path, kind) for path, kinds in CASES.items() for kind in kinds])
def test_no_body_is_our_fault(client: TestClient, path: str, kind: str) -> None:
    """Whatever a body holds, it is answered, or refused without a 5xx and without much of it being told back."""
    for body in CASES[path][kind]():
        answer = client.post(path, content=body, headers={"content-type": kind})
        assert answer.status_code in (200, 400, 422), (answer.status_code, answer.text[:300], body[:300])
        assert not re.search(r"A{101}|1{101}|0{101}", answer.text), body[:300]
        assert len(answer.text) < 10_000, body[:300]


@pytest.mark.parametrize("path", CASES)
@pytest.mark.parametrize(
    "kind", ["", "A" * 5000, "application/json;" * 1000, "\xff\xfe", "application/json; charset=x", ";"]
)
def test_no_content_type_is_our_fault(client: TestClient, path: str, kind: str) -> None:
    """Whatever a body is declared as, it is read as JSON or refused, without much of it being told back."""
    answer = client.post(path, content=b"{}", headers={b"content-type": kind.encode("latin-1")})
    assert answer.status_code in (400, 415, 422)
    assert len(answer.text) < 1000


def test_a_wide_header_of_csv_is_not_filled_up() -> None:
    """Short rows under a wide header take what the model's columns take, and not the product of the two."""
    wide = [*NAMES, *(f"c{i}" for i in range(1000)), NAMES[0]]
    values = ",".join(str(ROW[name] if ROW[name] is not None else "") for name in NAMES)
    table = csv_parquet.read_csv((",".join(wide) + f"\n{values}" * 50).encode(), COLUMNS, MAX_ROWS)
    assert {len(row) for row in table.rows} == {WIDTH}
    assert MODEL.schema.lenient().table(table, MAX_ROWS)[49] == [ROW[name] for name in NAMES]


def test_columns_that_are_no_names_are_told_apart(client: TestClient) -> None:
    """A split's columns are names: numbers count as such, lists and objects do not."""
    data = [[1, 2]]
    for columns, words in (([0, 1.5], "missing"), ([["a"], 0], "columns.0 must be a name, got a list of 1")):
        answer = client.post("/invocations", json={"dataframe_split": {"columns": columns, "data": data}})
        assert answer.status_code == 400
        assert words in answer.json()["message"]


def test_unknown_names_are_counted_to_a_limit(client: TestClient) -> None:
    """Of thousands of unknown features the first few are told."""
    extra = dict.fromkeys(map(str, range(5000)), 1)
    for document in ({**ROW, **extra}, {"instances": [ROW], **extra}, {"instances": [{**ROW, **extra}]}):
        answer = client.post("/predict", json=document)
        assert (answer.status_code, len(answer.json()["errors"])) == (422, MAX_FAULTS)


def test_rows_of_parquet_are_counted_before_they_are_read() -> None:
    """A small file of very many rows is refused by what it says of itself."""
    body = written({"size": pa.nulls(3_000_000, pa.float64())})
    assert len(body) < 10_000
    with pytest.raises(InvalidRows, match="at most 100 rows, got 3000000"):
        csv_parquet.read_parquet(body, COLUMNS, MAX_ROWS)


def test_words_of_parquet_are_unpacked_to_a_limit() -> None:
    """A long word that every row has makes a small file, and no gigabyte."""
    words = pa.DictionaryArray.from_arrays(pa.array([0] * MAX_ROWS), pa.array(["x" * 1_000_000]))
    body = written({"colour": words})
    assert len(body) < 200_000
    with pytest.raises(InvalidBody, match="100000000 bytes when it is unpacked"):
        csv_parquet.read_parquet(body, COLUMNS, MAX_ROWS)


def test_size_of_parquet_is_looked_at_before_it_is_read() -> None:
    """So is a file of pages that grow when they are unpacked."""
    body = written({f"c{i}": pa.array([bytes(1_000_000)] * 1) for i in range(100)})
    assert len(body) < 10_000_000
    with pytest.raises(InvalidBody, match="when it is unpacked"):
        csv_parquet.read_parquet(body, COLUMNS, MAX_ROWS)


def test_words_of_parquet_are_read_as_they_are() -> None:
    """Words in a dictionary or not, NaN, a column that the model has not, and an index are read as pandas would."""
    coded = pa.DictionaryArray.from_arrays(pa.array([1, None, 0]), pa.array(["a", "b"]))
    columns = {"note": coded, "colour": ["x", "y", "x"], "size": [1.5, float("nan"), None], "other": [1, 2, 3]}
    table = csv_parquet.read_parquet(written(columns), COLUMNS, MAX_ROWS)
    assert dict(zip(table.names, zip(*table.rows, strict=True), strict=True)) == {
        "colour": ("x", "y", "x"),
        "size": (1.5, None, None),
        "note": ("b", None, "a"),
    }


def test_broken_parquet_is_told_so() -> None:
    """A file with bytes changed at random is read, or refused as what it is."""
    rng = random.Random(0)
    whole = written({name: [ROW.get(name)] for name in NAMES} | {"size": pa.array([1], pa.date32())})
    for _ in range(300):
        body = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        try:
            csv_parquet.read_parquet(bytes(body), COLUMNS, MAX_ROWS)
        except RequestError:
            continue
