"""Loading of the Covertype data set: from a file, from scikit-learn's download or, without a network, made-up rows."""

from __future__ import annotations

import contextlib
import socket
import sys
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pandas as pd
from sklearn.datasets import fetch_covtype

from deploy.models.training.form import (
    COLUMNS,
    FEATURES,
    LABEL,
    PUBLISHED_RANGES,
    UCI_COLUMNS,
    Covertype,
    DataError,
    from_frame,
)
from deploy.models.training.synthetic import generate

__all__ = ["FEATURES", "LABEL", "PUBLISHED_RANGES", "Covertype", "DataError", "load"]

# The download gives up after waiting this long for a connection or for the next bytes.
NETWORK_TIMEOUT_SECONDS = 10.0
# The errors of urllib without a network. Any other OSError, such as a wrong checksum or a full disk, is reported.
_NETWORK_ERRORS = (URLError, TimeoutError, ConnectionError)
_READ_ERRORS = (OSError, ValueError, EOFError, zlib.error, pd.errors.ParserWarning)

_SYNTHETIC_WARNING = """\
******************************************************************************
  THE TRAINING DATA IS SYNTHETIC.
  Covertype could not be downloaded: {reason}
  This model learns from made-up rows: it serves and measures like the real
  one, but ITS PREDICTIONS MEAN NOTHING.
  To train on the real data set:
      COVERTYPE_PATH=/path/to/covertype.csv.gz make train
  or, on a machine with internet access:
      make train
******************************************************************************"""


def load(path: Path | None, data_home: Path) -> Covertype:
    """Load Covertype from the file of COVERTYPE_PATH or, without one, from scikit-learn's download.

    The download is kept in ``data_home``. Without a network the rows are synthetic, after a warning on stderr.

    Raises:
        DataError: the file or the download is not Covertype; the message is one line.

    """
    if path:
        return from_file(path)
    print("loading Covertype from scikit-learn (11 MB, downloaded once)", flush=True)
    try:
        return _download(data_home)
    except _NETWORK_ERRORS as error:
        print(_SYNTHETIC_WARNING.format(reason=error), file=sys.stderr, flush=True)
        return generate()


def from_file(path: Path) -> Covertype:
    """Read a CSV, compressed or not: the 13 columns of this project in any order, or the 55 published columns.

    Raises:
        DataError: the file cannot be read, or is in neither form.

    """
    try:
        with warnings.catch_warnings():
            # Of a row longer than the header pandas drops the last cells, and only warns.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = _read_frame(path)
    except _READ_ERRORS as error:
        raise DataError(f"COVERTYPE_PATH={path}: cannot be read as CSV: {_one_line(error)}") from None
    return from_frame(frame, f"COVERTYPE_PATH={path}", f"file: {path.name}")


def _read_frame(path: Path) -> pd.DataFrame:
    first_line = pd.read_csv(path, header=None, nrows=1, dtype=str, encoding="utf-8-sig").iloc[0]
    has_header = bool(pd.to_numeric(first_line, errors="coerce").isna().all())
    names = [str(cell).strip().lower() for cell in first_line] if has_header else []
    if len(first_line) != len(UCI_COLUMNS) or set(COLUMNS) <= set(names):
        _check_header(names, len(first_line), path)
    else:
        names = list(UCI_COLUMNS)
    header = 0 if has_header else None
    frame = pd.read_csv(path, header=header, index_col=False, low_memory=False, encoding="utf-8-sig")
    frame.columns = pd.Index(names)
    return frame if len(names) == len(UCI_COLUMNS) else frame[list(COLUMNS)]


def _check_header(names: list[str], width: int, path: Path) -> None:
    invalid = [name for name in COLUMNS if names.count(name) != 1]
    if invalid:
        problem = f"missing or duplicate columns: {', '.join(invalid)}" if names else f"{width} columns and no header"
        raise DataError(
            f"COVERTYPE_PATH={path}: {problem}; expected a header with {', '.join(COLUMNS)},"
            f" or the {len(UCI_COLUMNS)} columns of the published data set"
        )


def _download(data_home: Path) -> Covertype:
    """Return scikit-learn's copy of the data set, which it downloads once and keeps in ``data_home``.

    Raises:
        DataError: the download or the kept copy is damaged, or is not Covertype.
        URLError, TimeoutError, ConnectionError: the network is unreachable.
    """
    location = f"fetch_covtype in {data_home}"
    try:
        with _network_timeout():
            x, y = fetch_covtype(data_home=data_home, n_retries=1, return_X_y=True)
    except _NETWORK_ERRORS:
        raise
    except Exception as error:  # A damaged download or copy may raise any error of gzip or pickle.
        hint = f"remove {data_home / 'covertype'} and try again, or set COVERTYPE_PATH"
        raise DataError(f"{location}: {_one_line(error)}: {hint}") from None
    if x.ndim != 2 or x.shape[1] != len(UCI_COLUMNS) - 1:
        raise DataError(f"{location}: expected {len(UCI_COLUMNS) - 1} features per row, got the shape {x.shape}")
    return from_frame(pd.DataFrame(np.column_stack([x, y]), columns=list(UCI_COLUMNS)), location, "fetch_covtype")


@contextlib.contextmanager
def _network_timeout() -> Iterator[None]:
    """Set a timeout for all new sockets, because scikit-learn's download has none, and ignore its retry warnings."""
    old_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Retry downloading")
            yield
    finally:
        socket.setdefaulttimeout(old_timeout)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
