"""Valid and invalid requests of MLflow's scoring protocol: CSV and Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pandas as pd

from tests.peers.exchange import Case
from tests.peers.models import COVERTYPE, MIXED
from tests.peers.scoring import ROWS, raw_case

CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"

_HEAD = ",".join(COVERTYPE)
_ROW = ",".join(map(str, COVERTYPE.values()))
_MIXED = ",".join(MIXED)


def _replace_cell(name: str, cell: str) -> str:
    """Return a CSV with one row in which the cell of column ``name`` is replaced."""
    return f"{_HEAD}\n" + ",".join(cell if column == name else str(value) for column, value in COVERTYPE.items())


def _mixed(cells: str) -> str:
    return f"{_MIXED}\n{cells}\n"


_TEXTS = {
    "plain": f"{_HEAD}\n{_ROW}\n{_ROW}\n",
    "without a last line end": f"{_HEAD}\n{_ROW}",
    "with CRLF": f"{_HEAD}\r\n{_ROW}\r\n",
    "with CR": f"{_HEAD}\r{_ROW}\r",
    "quoted": ",".join(f'"{n}"' for n in COVERTYPE) + "\n" + ",".join(f'"{v}"' for v in COVERTYPE.values()) + "\n",
    "with a byte order mark": f"\ufeff{_HEAD}\n{_ROW}\n",
    "with blank lines": f"\n{_HEAD}\n\n{_ROW}\n\n\n",
    "with spaces after commas": f"{_HEAD}\n" + _ROW.replace(",", ", "),
    "with spaces in the header": _HEAD.replace(",", ", ") + f"\n{_ROW}\n",
    "with an index column": f",{_HEAD}\n0,{_ROW}\n",
    "with an extra column": f"{_HEAD},more\n{_ROW},x\n",
    "with a unicode column": f"{_HEAD},größe 高\n{_ROW},x\n",
    "in another order": ",".join(reversed(COVERTYPE)) + "\n" + ",".join(str(v) for v in reversed(COVERTYPE.values())),
    "without one column": _HEAD.removeprefix("elevation,") + "\n" + _ROW.removeprefix("2596,"),
    "with a column twice": f"{_HEAD},slope\n{_ROW},3\n",
    "without a header": f"{_ROW}\n{_ROW}\n",
    "with only a header": f"{_HEAD}\n",
    "empty": "",
    "of one line end": "\n",
    "with a short row": f"{_HEAD}\n{_ROW.rpartition(',')[0]}\n",
    "with a short row after a good one": f"{_HEAD}\n{_ROW}\n1,2\n",
    "with a long row": f"{_HEAD}\n{_ROW},1\n",
    "with a long row after a good one": f"{_HEAD}\n{_ROW}\n{_ROW},1\n",
    "with semicolons": f"{_HEAD}\n{_ROW}\n".replace(",", ";"),
    "with tabs": f"{_HEAD}\n{_ROW}\n".replace(",", "\t"),
    "with an open quote": f'{_HEAD}\n"{_ROW}\n',
    "with a comment": f"# rows\n{_HEAD}\n{_ROW}\n",
    "that is JSON": '{"dataframe_records": []}',
    "with an empty cell in a long": _replace_cell("slope", ""),
    "with 3.0 in a long": _replace_cell("slope", "3.0"),
    "with 3.5 in a long": _replace_cell("slope", "3.5"),
    "with +3 in a long": _replace_cell("slope", "+3"),
    "with 1e1 in a long": _replace_cell("slope", "1e1"),
    "with 1,000 in a long": _replace_cell("slope", '"1,000"'),
    "with true in a long": _replace_cell("slope", "true"),
    "with text in a long": _replace_cell("slope", "steep"),
    "with NA in a long": _replace_cell("slope", "NA"),
    "with 2**63 in a long": _replace_cell("slope", str(2**63)),
}
_MIXED_TEXTS = {
    "of every type": _mixed("red,40,7000000000,0.5,61.5,True,30"),
    "with a quoted comma": _mixed('"red, or so",40,7,0.5,61.5,True,30'),
    "with a quoted quote": _mixed('"the ""red""",40,7,0.5,61.5,True,30'),
    "with a quoted line end": _mixed('"red\nblue",40,7,0.5,61.5,True,30'),
    "with unicode": _mixed("größe 高,40,7,0.5,61.5,True,30"),
    "with a number in a string": _mixed("7,40,7,0.5,61.5,True,30"),
    "with an empty string": _mixed(",40,7,0.5,61.5,True,30"),
    "with NA in a string": _mixed("NA,40,7,0.5,61.5,True,30"),
    "with spaces around a string": _mixed(" red ,40,7,0.5,61.5,True,30"),
    "with true in a boolean": _mixed("red,40,7,0.5,61.5,true,30"),
    "with FALSE in a boolean": _mixed("red,40,7,0.5,61.5,FALSE,30"),
    "with 1 in a boolean": _mixed("red,40,7,0.5,61.5,1,30"),
    "with 2 in a boolean": _mixed("red,40,7,0.5,61.5,2,30"),
    "with yes in a boolean": _mixed("red,40,7,0.5,61.5,yes,30"),
    "with an empty boolean": _mixed("red,40,7,0.5,61.5,,30"),
    "with an empty optional": _mixed("red,40,7,0.5,61.5,True,"),
    "without the optional": "colour,count,total,height,weight,fragile\nred,40,7,0.5,61.5,True\n",
    "with an empty double": _mixed("red,40,7,0.5,,True,30"),
    "with nan in a double": _mixed("red,40,7,0.5,nan,True,30"),
    "with inf in a double": _mixed("red,40,7,0.5,inf,True,30"),
    "with text in a double": _mixed("red,40,7,0.5,heavy,True,30"),
    "with true in a double": _mixed("red,40,7,0.5,true,True,30"),
    "with 1e400 in a double": _mixed("red,40,7,0.5,1e400,True,30"),
    "with 2**31 in an integer": _mixed("red,2147483648,7,0.5,61.5,True,30"),
}


def _csv() -> Iterator[Case]:
    for name, text in _TEXTS.items():
        yield raw_case(f"CSV {name}", text.encode(), CSV)
    for name, text in _MIXED_TEXTS.items():
        yield raw_case(f"CSV {name}", text.encode(), CSV, "mixed")
    yield raw_case("CSV several outputs", b"x,y,z\n0.25,0.5,0.75\n1e-1,.5,1\n", CSV, "several")
    yield raw_case("CSV not UTF-8", f"{_HEAD},gr\xf6\xdfe\n{_ROW},1\n".encode("latin-1"), CSV)
    plain = _TEXTS["plain"].encode()
    for content_type in (
        "text/csv; charset=utf-8",
        "text/csv; charset=latin-1",
        "text/csv; header=present",
        "TEXT/CSV",
    ):
        yield raw_case(f"CSV as {content_type!r}", plain, content_type)


def _parquet_of(frame: Any, index: bool = False) -> bytes:
    file = BytesIO()
    frame.to_parquet(file, index=index)
    return file.getvalue()


def _parquet() -> Iterator[Case]:
    # The type is Any because pandas' stubs reject valid arguments.
    frame: Any = pd.DataFrame(ROWS["several"] * 2)
    wide: Any = pd.DataFrame(ROWS["mixed"])
    signed = wide.astype({"count": "int32", "height": "float32", "age": "float64"})
    narrow = signed.astype({"count": "int8"})
    for name, body in {
        "": _parquet_of(frame),
        "with an index": _parquet_of(frame, index=True),
        "with an extra column": _parquet_of(frame.assign(more="x")),
        "in another order": _parquet_of(frame[["z", "y", "x"]]),
        "without one column": _parquet_of(frame.drop(columns="y")),
        "of whole numbers": _parquet_of(frame.assign(y=[1, 2])),
        "of text": _parquet_of(frame.assign(y=["1", "2"])),
        "of booleans": _parquet_of(frame.assign(y=[True, False])),
        "of dates": _parquet_of(frame.assign(y=pd.Timestamp("2020-01-01"))),
        "of lists": _parquet_of(frame.assign(y=[[1], [2]])),
        "with a null": _parquet_of(frame.assign(y=[0.5, None])),
        "with no rows": _parquet_of(frame.iloc[:0]),
        "cut off": _parquet_of(frame)[:-8],
        "that is JSON": b'{"dataframe_records": []}',
        "empty": b"",
    }.items():
        yield raw_case(f"Parquet {name}".strip(), body, PARQUET, "several")
    yield raw_case("Parquet with charset", _parquet_of(frame), f"{PARQUET}; charset=utf-8", "several")
    yield raw_case("Parquet of the signature's types", _parquet_of(signed), PARQUET, "mixed")
    yield raw_case("Parquet of wider types", _parquet_of(wide), PARQUET, "mixed")
    yield raw_case("Parquet of narrower types", _parquet_of(narrow), PARQUET, "mixed")
    yield raw_case("Parquet without the optional", _parquet_of(signed.drop(columns="age")), PARQUET, "mixed")
    yield raw_case("Parquet with a null optional", _parquet_of(signed.assign(age=[None, 3.0])), PARQUET, "mixed")
    yield raw_case("Parquet for a model without pandas", _parquet_of(pd.DataFrame(ROWS["covertype"])), PARQUET)


def cases() -> Iterator[Case]:
    """Yield all requests of this module."""
    yield from _csv()
    yield from _parquet()
