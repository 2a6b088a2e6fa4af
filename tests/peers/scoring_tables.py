"""Requests of MLflow's scoring protocol, good and bad: CSV and Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pandas as pd

from tests.peers.exchange import Case
from tests.peers.models import COVERTYPE, MIXED
from tests.peers.scoring import ROWS, raw

CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"

_HEAD = ",".join(COVERTYPE)
_ROW = ",".join(map(str, COVERTYPE.values()))
_MIXED = ",".join(MIXED)


def _with(name: str, cell: str) -> str:
    """A CSV of one row in which one cell is another."""
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
    "with an empty cell in a long": _with("slope", ""),
    "with 3.0 in a long": _with("slope", "3.0"),
    "with 3.5 in a long": _with("slope", "3.5"),
    "with +3 in a long": _with("slope", "+3"),
    "with 1e1 in a long": _with("slope", "1e1"),
    "with 1,000 in a long": _with("slope", '"1,000"'),
    "with true in a long": _with("slope", "true"),
    "with text in a long": _with("slope", "steep"),
    "with NA in a long": _with("slope", "NA"),
    "with 2**63 in a long": _with("slope", str(2**63)),
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
        yield raw(f"CSV {name}", text.encode(), CSV)
    for name, text in _MIXED_TEXTS.items():
        yield raw(f"CSV {name}", text.encode(), CSV, "mixed")
    yield raw("CSV several outputs", b"x,y,z\n0.25,0.5,0.75\n1e-1,.5,1\n", CSV, "several")
    yield raw("CSV not UTF-8", f"{_HEAD},gr\xf6\xdfe\n{_ROW},1\n".encode("latin-1"), CSV)
    good = _TEXTS["plain"].encode()
    for kind in ("text/csv; charset=utf-8", "text/csv; charset=latin-1", "text/csv; header=present", "TEXT/CSV"):
        yield raw(f"CSV as {kind!r}", good, kind)


def _written(frame: Any, index: bool = False) -> bytes:
    file = BytesIO()
    frame.to_parquet(file, index=index)
    return file.getvalue()


def _parquet() -> Iterator[Case]:
    # Any, for pandas' stubs know fewer values than pandas does.
    frame: Any = pd.DataFrame(ROWS["several"] * 2)
    wide: Any = pd.DataFrame(ROWS["mixed"])
    signed = wide.astype({"count": "int32", "height": "float32", "age": "float64"})
    narrow = signed.astype({"count": "int8"})
    for name, body in {
        "": _written(frame),
        "with an index": _written(frame, index=True),
        "with an extra column": _written(frame.assign(more="x")),
        "in another order": _written(frame[["z", "y", "x"]]),
        "without one column": _written(frame.drop(columns="y")),
        "of whole numbers": _written(frame.assign(y=[1, 2])),
        "of text": _written(frame.assign(y=["1", "2"])),
        "of booleans": _written(frame.assign(y=[True, False])),
        "of dates": _written(frame.assign(y=pd.Timestamp("2020-01-01"))),
        "of lists": _written(frame.assign(y=[[1], [2]])),
        "with a null": _written(frame.assign(y=[0.5, None])),
        "with no rows": _written(frame.iloc[:0]),
        "cut off": _written(frame)[:-8],
        "that is JSON": b'{"dataframe_records": []}',
        "empty": b"",
    }.items():
        yield raw(f"Parquet {name}".strip(), body, PARQUET, "several")
    yield raw("Parquet with charset", _written(frame), f"{PARQUET}; charset=utf-8", "several")
    yield raw("Parquet of the signature's types", _written(signed), PARQUET, "mixed")
    yield raw("Parquet of wider types", _written(wide), PARQUET, "mixed")
    yield raw("Parquet of narrower types", _written(narrow), PARQUET, "mixed")
    yield raw("Parquet without the optional", _written(signed.drop(columns="age")), PARQUET, "mixed")
    yield raw("Parquet with a null optional", _written(signed.assign(age=[None, 3.0])), PARQUET, "mixed")
    yield raw("Parquet for a model without pandas", _written(pd.DataFrame(ROWS["covertype"])), PARQUET)


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _csv()
    yield from _parquet()
