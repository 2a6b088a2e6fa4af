"""Tests of loading the Covertype data set from files and from scikit-learn's download."""

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

ROWS = generate(rows=200, seed=1)


def project_frame(data: Covertype) -> pd.DataFrame:
    """Return the rows with the 13 columns of this project."""
    frame = pd.DataFrame(data.x.astype(int), columns=list(FEATURES))
    return frame.assign(**{LABEL: data.y})


def published_frame(data: Covertype) -> pd.DataFrame:
    """Return the rows with the 55 columns of the published data set."""
    wilderness = np.eye(4, dtype=int)[data.x[:, 10].astype(int) - 1]
    soil = np.eye(40, dtype=int)[data.x[:, 11].astype(int) - 1]
    return pd.DataFrame(np.column_stack([data.x[:, :10].astype(int), wilderness, soil, data.y]), columns=UCI_COLUMNS)


def load_file(path: Path) -> Covertype:
    return load(path, path.parent / "data")


def refused_file(path: Path) -> str:
    """Return the message with which a file is refused, after a check that it names the file."""
    assert issubclass(DataError, StartError)
    message = refusal(lambda: load_file(path), DataError)
    assert str(path) in message
    return message


class SilentFileHandler(SimpleHTTPRequestHandler):
    """A handler that serves files and logs nothing."""

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A function that makes scikit-learn download the given content from a server on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SilentFileHandler, directory=str(folder)))

    def serve(content: bytes, checksum: str | None = None) -> None:
        (folder / "covtype.data.gz").write_bytes(content)
        url = f"http://127.0.0.1:{server.server_port}/covtype.data.gz"
        checksum = checksum or hashlib.sha256(content).hexdigest()
        monkeypatch.setattr(_covtype, "ARCHIVE", RemoteFileMetadata("covtype.data.gz", url, checksum))

    with serving_thread(server):
        yield serve


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_project_columns_are_matched_by_name(tmp_path: Path, name: str) -> None:
    """The 13 columns are read by name, in any order, compressed or not, and other columns are ignored."""
    frame = project_frame(ROWS).assign(id=range(200))
    frame[frame.columns[::-1]].to_csv(tmp_path / name, index=False)
    data = load_file(tmp_path / name)
    assert np.array_equal(data.x, ROWS.x)
    assert np.array_equal(data.y, ROWS.y)
    assert (data.x.dtype.name, data.y.dtype.name, data.source) == ("float64", "int64", f"file: {name}")


@pytest.mark.parametrize("header", [False, True])
def test_published_columns_are_converted_to_thirteen(tmp_path: Path, header: bool) -> None:
    """The 55 published columns, with a header or without, are converted to 12 features and the label."""
    published_frame(ROWS).to_csv(tmp_path / "covtype.data", index=False, header=header)
    data = load_file(tmp_path / "covtype.data")
    assert np.array_equal(data.x, ROWS.x)
    assert np.array_equal(data.y, ROWS.y)


def test_header_ignores_case_spaces_and_byte_order_mark(tmp_path: Path) -> None:
    """A header with a byte-order mark, capitals and spaces is accepted, and so are whole numbers such as 3.0."""
    frame = project_frame(ROWS).astype(float)
    frame.columns = pd.Index([f" {name.title()}" for name in frame.columns])
    frame.to_csv(tmp_path / "rows.csv", index=False, encoding="utf-8-sig")
    assert np.array_equal(load_file(tmp_path / "rows.csv").x, ROWS.x)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"\x1f\x8bnot gzip", gzip.compress(b"a,b\n" * 999, mtime=0)[:-9]]
)
def test_unreadable_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    """A file that is empty, not text, not gzip or truncated is refused in one line that names it."""
    path = tmp_path / "rows.csv.gz" if content.startswith(b"\x1f") else tmp_path / "rows.csv"
    path.write_bytes(content)
    assert "cannot be read as CSV" in refused_file(path)


def test_missing_file_or_folder_is_refused(tmp_path: Path) -> None:
    """A path that does not exist, or is a folder, is refused in one line that names it."""
    assert "No such file" in refused_file(tmp_path / "none.csv")
    assert "cannot be read" in refused_file(tmp_path)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    """Missing columns are named, with the expected header."""
    project_frame(ROWS).drop(columns=["slope", LABEL]).to_csv(tmp_path / "rows.csv", index=False)
    message = refused_file(tmp_path / "rows.csv")
    assert "slope, cover_type; expected a header with elevation" in message
    assert "55 columns" in message


def test_rows_of_wrong_length_are_refused(tmp_path: Path) -> None:
    """Rows without a header that do not have 55 columns are refused, and so is a row with more or fewer cells."""
    project_frame(ROWS).to_csv(tmp_path / "bare.csv", index=False, header=False)
    assert "13 columns and no header" in refused_file(tmp_path / "bare.csv")
    lines = project_frame(ROWS).to_csv(index=False).splitlines()
    for number in (1, 5):
        longer_row = [*lines[:number], f"{lines[number]},9", *lines[number + 1 :]]
        (tmp_path / "long.csv").write_text("\n".join(longer_row))
        refused_file(tmp_path / "long.csv")
    (tmp_path / "short.csv").write_text("\n".join([*lines[:3], "1,2,3", *lines[4:]]))
    assert "row 3, column horizontal_distance_to_hydrology: expected a whole number" in refused_file(
        tmp_path / "short.csv"
    )


@pytest.mark.parametrize("cell", ["steep", "", "inf", "3.5"])
def test_non_integer_cell_is_named_by_position(tmp_path: Path, cell: str) -> None:
    """The error for a cell that is not a whole number has its row (without the header) and its column."""
    frame = project_frame(ROWS).astype(object)
    frame.loc[6, "slope"] = cell
    frame.to_csv(tmp_path / "rows.csv", index=False)
    assert "row 7, column slope: expected a whole number" in refused_file(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        (LABEL, 0, "1 to 7, got 0"),
        (LABEL, 8, "1 to 7"),
        ("wilderness_area", 5, "1 to 4"),
        ("soil_type", 41, "1 to 40"),
        ("soil_type", 0, "1 to 40, got 0"),
        ("aspect", -1, "0 to 360, got -1"),
        ("hillshade_noon", 256, "0 to 255"),
    ],
)
def test_value_outside_the_domain_is_refused(tmp_path: Path, column: str, value: int, expected: str) -> None:
    """The error for a label, code or measurement that cannot be has the row, the column, the value and the range."""
    frame = project_frame(ROWS)
    frame.loc[2, column] = value
    frame.to_csv(tmp_path / "rows.csv", index=False)
    assert f"row 3, column {column}: expected {expected}" in refused_file(tmp_path / "rows.csv")


@pytest.mark.parametrize("set_codes", [[], [1, 2]])
def test_one_hot_block_requires_exactly_one_1(tmp_path: Path, set_codes: list[int]) -> None:
    """A row whose one-hot columns have no 1, or more than one, is refused."""
    frame = published_frame(ROWS)
    frame.loc[4, [f"wilderness_area_{code}" for code in range(1, 5)]] = [int(code in set_codes) for code in range(1, 5)]
    frame.to_csv(tmp_path / "rows.csv", index=False, header=False)
    assert "row 5, the one-hot columns of wilderness_area: expected one 1" in refused_file(tmp_path / "rows.csv")


def test_too_few_rows_per_class_are_refused(tmp_path: Path) -> None:
    """A class with too few rows to hold some out, a single class, and an empty file are refused."""
    frame = project_frame(ROWS)
    for name, rows in {"no-rows": frame[:0], "one-class": frame[frame[LABEL] == 2]}.items():
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
        assert "expected at least two classes" in refused_file(tmp_path / f"{name}.csv")
    pd.concat([frame[frame[LABEL] == 1], frame[frame[LABEL] == 2][:4]]).to_csv(tmp_path / "rare.csv", index=False)
    assert "cover_type 2 has 4 rows: expected" in refused_file(tmp_path / "rare.csv")


def test_downloaded_data_is_converted_and_cached(tmp_path: Path, archive: Callable[..., None]) -> None:
    """Without a file, scikit-learn's download is converted and kept, and the sockets' default timeout is restored."""
    archive(gzip.compress(published_frame(ROWS).to_csv(index=False, header=False).encode()))
    old_timeout = socket.getdefaulttimeout()
    data = load(None, tmp_path / "data")
    assert np.array_equal(data.x, ROWS.x)
    assert np.array_equal(data.y, ROWS.y)
    assert data.source == "fetch_covtype"
    assert socket.getdefaulttimeout() == old_timeout
    archive(b"other content")
    assert np.array_equal(load(None, tmp_path / "data").x, ROWS.x)


def test_corrupt_download_is_an_error(tmp_path: Path, archive: Callable[..., None]) -> None:
    """A download that is not the data set is an error, and is not replaced by synthetic rows."""
    archive(b"<html>please log in</html>", checksum="0" * 64)
    with pytest.raises(DataError, match=r"SHA256 checksum .* set COVERTYPE_PATH"):
        load(None, tmp_path / "data")
    archive(gzip.compress(b"1,2,3\n4,5,6\n"))
    with pytest.raises(DataError, match="expected 54 features per row"):
        load(None, tmp_path / "data")


def test_missing_network_falls_back_to_synthetic_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a network the rows are synthetic, after a warning that says how to train on the real data."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url = f"http://127.0.0.1:{free_port()}/covtype.data.gz"
    monkeypatch.setattr(_covtype, "ARCHIVE", RemoteFileMetadata("covtype.data.gz", url, "0" * 64))
    data = load(None, tmp_path / "data")
    warning = capsys.readouterr().err
    assert data.source == "synthetic"
    assert data.x.shape == (20_000, 12)
    assert len(warning.splitlines()) > 5
    for text in ("DATA IS SYNTHETIC", "Connection refused", "MEAN NOTHING", "COVERTYPE_PATH=/path", "make train"):
        assert text in warning


def test_download_from_a_silent_server_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts the connection and sends nothing counts as unreachable after the timeout."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("deploy.models.training.covertype.NETWORK_TIMEOUT_SECONDS", 0.2)
    with port_in_use() as silent:
        url = f"http://127.0.0.1:{silent}/"
        monkeypatch.setattr(_covtype, "ARCHIVE", RemoteFileMetadata("covtype.data.gz", url, "0" * 64))
        assert load(None, tmp_path / "data").source == "synthetic"


def test_synthetic_rows_are_reproducible_and_in_range() -> None:
    """Synthetic rows are equal for equal seeds, whole numbers within the published ranges, and of all seven classes."""
    second = generate(rows=200, seed=1)
    assert np.array_equal(second.x, ROWS.x)
    assert np.array_equal(ROWS.x, np.rint(ROWS.x))
    for column, (low, high) in zip(ROWS.x.T, PUBLISHED_RANGES.values(), strict=True):
        assert low <= column.min() <= column.max() <= high
    assert set(ROWS.y) == set(range(1, 8))
