"""Where the training data comes from, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import socket
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import _covtype
from sklearn.datasets._base import RemoteFileMetadata

from deploy.models.training.covertype import FEATURES, LABEL, PUBLISHED_RANGES, Covertype, DataError, load
from deploy.models.training.form import UCI_COLUMNS
from deploy.models.training.synthetic import generate
from server.errors import StartError
from tests.support.ports import free_port, port_in_use
from tests.support.refusals import refusal
from tests.support.servers import serving_thread

MADE = generate(rows=200, seed=1)


def workshop(data: Covertype) -> pd.DataFrame:
    frame = pd.DataFrame(data.x.astype(int), columns=list(FEATURES))
    return frame.assign(**{LABEL: data.y})


def published(data: Covertype) -> pd.DataFrame:
    """The 55 columns that the data set was published in."""
    wilderness = np.eye(4, dtype=int)[data.x[:, 10].astype(int) - 1]
    soil = np.eye(40, dtype=int)[data.x[:, 11].astype(int) - 1]
    return pd.DataFrame(np.column_stack([data.x[:, :10].astype(int), wilderness, soil, data.y]), columns=UCI_COLUMNS)


def load_file(path: Path) -> Covertype:
    return load(path, path.parent / "data")


def refused_file(path: Path) -> str:
    """Return why a file is refused, which names the file."""
    assert issubclass(DataError, StartError)
    message = refusal(lambda: load_file(path), DataError)
    assert str(path) in message
    return message


class Files(SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Point scikit-learn's download at a file of ours, served on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(folder)))

    def serve(content: bytes, checksum: str | None = None) -> None:
        (folder / "covtype.data.gz").write_bytes(content)
        url = f"http://127.0.0.1:{server.server_port}/covtype.data.gz"
        found = checksum or hashlib.sha256(content).hexdigest()
        monkeypatch.setattr(_covtype, "ARCHIVE", RemoteFileMetadata("covtype.data.gz", url, found))

    with serving_thread(server):
        yield serve


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_workshop_columns_are_matched_by_name(tmp_path: Path, name: str) -> None:
    """The 13 columns are read by name, in any order, compressed or not, with other columns beside them."""
    frame = workshop(MADE).assign(id=range(200))
    frame[frame.columns[::-1]].to_csv(tmp_path / name, index=False)
    data = load_file(tmp_path / name)
    assert np.array_equal(data.x, MADE.x)
    assert np.array_equal(data.y, MADE.y)
    assert (data.x.dtype.name, data.y.dtype.name, data.source) == ("float64", "int64", f"file: {name}")


@pytest.mark.parametrize("header", [False, True])
def test_published_columns_are_folded_to_thirteen(tmp_path: Path, header: bool) -> None:
    """The 55 columns of the published form, with a header or without, are folded back to 12 and the label."""
    published(MADE).to_csv(tmp_path / "covtype.data", index=False, header=header)
    data = load_file(tmp_path / "covtype.data")
    assert np.array_equal(data.x, MADE.x)
    assert np.array_equal(data.y, MADE.y)


def test_spelling_of_the_header(tmp_path: Path) -> None:
    """A byte-order mark, capitals and spaces in the header do no harm, nor do whole numbers with a point."""
    frame = workshop(MADE).astype(float)
    frame.columns = pd.Index([f" {name.title()}" for name in frame.columns])
    frame.to_csv(tmp_path / "rows.csv", index=False, encoding="utf-8-sig")
    assert np.array_equal(load_file(tmp_path / "rows.csv").x, MADE.x)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"\x1f\x8bnot gzip", gzip.compress(b"a,b\n" * 999, mtime=0)[:-9]]
)
def test_unreadable_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    """A file that is empty, not text, not gzip or cut off is refused in one line that names it."""
    path = tmp_path / "rows.csv.gz" if content.startswith(b"\x1f") else tmp_path / "rows.csv"
    path.write_bytes(content)
    assert "cannot be read as CSV" in refused_file(path)


def test_missing_file_or_folder(tmp_path: Path) -> None:
    """A path that leads nowhere, or to a folder, is refused in one line that names it."""
    assert "No such file" in refused_file(tmp_path / "none.csv")
    assert "cannot be read" in refused_file(tmp_path)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    """Columns that are missing are named, and what is expected is told."""
    workshop(MADE).drop(columns=["slope", LABEL]).to_csv(tmp_path / "rows.csv", index=False)
    message = refused_file(tmp_path / "rows.csv")
    assert "slope, cover_type; expected a header with elevation" in message
    assert "55 columns" in message


def test_rows_of_wrong_length_are_refused(tmp_path: Path) -> None:
    """Rows without a header must have 55 columns; a row of another length than the others is refused too."""
    workshop(MADE).to_csv(tmp_path / "bare.csv", index=False, header=False)
    assert "13 columns and no header" in refused_file(tmp_path / "bare.csv")
    lines = workshop(MADE).to_csv(index=False).splitlines()
    for number in (1, 5):
        long = [*lines[:number], f"{lines[number]},9", *lines[number + 1 :]]
        (tmp_path / "long.csv").write_text("\n".join(long))
        refused_file(tmp_path / "long.csv")
    (tmp_path / "short.csv").write_text("\n".join([*lines[:3], "1,2,3", *lines[4:]]))
    assert "row 3, column horizontal_distance_to_hydrology: expected a whole number" in refused_file(
        tmp_path / "short.csv"
    )


@pytest.mark.parametrize("cell", ["steep", "", "inf", "3.5"])
def test_non_integer_cell_is_named_by_position(tmp_path: Path, cell: str) -> None:
    """A cell that is not a whole number is named by row and column, header not counted."""
    frame = workshop(MADE).astype(object)
    frame.loc[6, "slope"] = cell
    frame.to_csv(tmp_path / "rows.csv", index=False)
    assert "row 7, column slope: expected a whole number" in refused_file(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [(LABEL, 0, "1 to 7, got 0"), (LABEL, 8, "1 to 7"), ("wilderness_area", 5, "1 to 4"), ("soil_type", 41, "1 to 40")],
)
def test_code_out_of_range(tmp_path: Path, column: str, value: int, expected: str) -> None:
    """A label or a code outside its range is named by row, column, value and range."""
    frame = workshop(MADE)
    frame.loc[2, column] = value
    frame.to_csv(tmp_path / "rows.csv", index=False)
    assert f"row 3, column {column}: expected {expected}" in refused_file(tmp_path / "rows.csv")


@pytest.mark.parametrize("ones", [[], [1, 2]])
def test_one_hot_block_requires_exactly_one_1(tmp_path: Path, ones: list[int]) -> None:
    """A row whose one-hot block has no 1, or two, is refused."""
    frame = published(MADE)
    frame.loc[4, [f"wilderness_area_{code}" for code in range(1, 5)]] = [int(code in ones) for code in range(1, 5)]
    frame.to_csv(tmp_path / "rows.csv", index=False, header=False)
    assert "row 5, the one-hot columns of wilderness_area: expected one 1" in refused_file(tmp_path / "rows.csv")


def test_too_few_rows_per_class_are_refused(tmp_path: Path) -> None:
    """A class that is too rare to be held out, a single class, and no rows at all are refused."""
    frame = workshop(MADE)
    for name, rows in {"none": frame[:0], "one": frame[frame[LABEL] == 2]}.items():
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
        assert "expected two classes or more" in refused_file(tmp_path / f"{name}.csv")
    pd.concat([frame[frame[LABEL] == 1], frame[frame[LABEL] == 2][:4]]).to_csv(tmp_path / "rare.csv", index=False)
    assert "cover_type 2 has 4 rows: expected" in refused_file(tmp_path / "rare.csv")


def test_downloaded_data_is_converted_and_cached(tmp_path: Path, archive: Callable[..., None]) -> None:
    """Without a file, scikit-learn's download is folded back, kept, and leaves the sockets' timeout alone."""
    archive(gzip.compress(published(MADE).to_csv(index=False, header=False).encode()))
    before = socket.getdefaulttimeout()
    data = load(None, tmp_path / "data")
    assert np.array_equal(data.x, MADE.x)
    assert np.array_equal(data.y, MADE.y)
    assert data.source == "fetch_covtype"
    assert socket.getdefaulttimeout() == before
    archive(b"changed since")
    assert np.array_equal(load(None, tmp_path / "data").x, MADE.x)


def test_corrupt_download_is_an_error(tmp_path: Path, archive: Callable[..., None]) -> None:
    """A download that is not the data set is an error, never silently replaced by synthetic rows."""
    archive(b"<html>please log in</html>", checksum="0" * 64)
    with pytest.raises(DataError, match=r"SHA256 checksum .* set COVERTYPE_PATH"):
        load(None, tmp_path / "data")
    archive(gzip.compress(b"1,2,3\n4,5,6\n"))
    with pytest.raises(DataError, match="expected 54 features a row"):
        load(None, tmp_path / "data")


def test_missing_network_falls_back_to_synthetic_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the download cannot be reached the rows are synthetic, which is said loudly with the way out."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url = f"http://127.0.0.1:{free_port()}/covtype.data.gz"
    monkeypatch.setattr(_covtype, "ARCHIVE", RemoteFileMetadata("covtype.data.gz", url, "0" * 64))
    data = load(None, tmp_path / "data")
    told = capsys.readouterr().err
    assert data.source == "synthetic"
    assert data.x.shape == (20_000, 12)
    assert len(told.splitlines()) > 5
    for words in ("DATA IS SYNTHETIC", "Connection refused", "MEAN NOTHING", "COVERTYPE_PATH=/path", "make train"):
        assert words in told


def test_silent_server_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes the connection and says nothing is given up after the timeout."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("deploy.models.training.covertype.NETWORK_TIMEOUT", 0.2)
    with port_in_use() as silent:
        url = f"http://127.0.0.1:{silent}/"
        monkeypatch.setattr(_covtype, "ARCHIVE", RemoteFileMetadata("covtype.data.gz", url, "0" * 64))
        assert load(None, tmp_path / "data").source == "synthetic"


def test_synthetic_rows_are_reproducible_and_in_range() -> None:
    """Made-up rows are the same for a seed, whole numbers within the published ranges, of all seven classes."""
    again = generate(rows=200, seed=1)
    assert np.array_equal(again.x, MADE.x)
    assert np.array_equal(MADE.x, np.rint(MADE.x))
    for column, (low, high) in zip(MADE.x.T, PUBLISHED_RANGES.values(), strict=True):
        assert low <= column.min() <= column.max() <= high
    assert set(MADE.y) == set(range(1, 8))
