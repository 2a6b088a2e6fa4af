"""Where the training data comes from: a file, else scikit-learn's download, else made-up rows, said loudly."""

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

# How long the download waits for a connection, or for the next bytes, in seconds.
NETWORK_TIMEOUT = 10.0
# What urllib raises where there is no network; other OSErrors (a checksum, a full disk) must not go unnoticed.
_UNREACHABLE = (URLError, TimeoutError, ConnectionError)
_UNREADABLE = (OSError, ValueError, EOFError, zlib.error, pd.errors.ParserWarning)

_SYNTHETIC = """\
******************************************************************************
  THE TRAINING DATA IS SYNTHETIC.
  Covertype could not be downloaded: {why}
  This model learns from made-up rows: it serves and measures like the real
  one, but ITS PREDICTIONS MEAN NOTHING.
  To train on the real data set:
      COVERTYPE_PATH=/path/to/covertype.csv.gz make train
  or, on a machine with internet access:
      make train
******************************************************************************"""


def load(given: Path | None, data_home: Path) -> Covertype:
    """Return Covertype from the file of COVERTYPE_PATH, else from scikit-learn (kept in ``data_home``), else synthetic.

    Raises:
        DataError: the file, or what was downloaded, is not Covertype; one line that says where and what is expected.

    """
    if given:
        return from_file(given)
    print("loading Covertype from scikit-learn (11 MB, downloaded once)", flush=True)
    try:
        return _fetched(data_home)
    except _UNREACHABLE as error:
        print(_SYNTHETIC.format(why=error), file=sys.stderr, flush=True)
        return generate()


def from_file(path: Path) -> Covertype:
    """Read a CSV, compressed or not: the 13 columns by name in any order, or the 55 of the published form.

    Raises:
        DataError: the file cannot be read, or is in neither form.

    """
    try:
        with warnings.catch_warnings():
            # A row longer than its header would lose its last cells with no more than a warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = _table(path)
    except _UNREADABLE as error:
        raise DataError(f"COVERTYPE_PATH={path}: cannot be read as CSV: {_line(error)}") from None
    return from_frame(frame, f"COVERTYPE_PATH={path}", f"file: {path.name}")


def _table(path: Path) -> pd.DataFrame:
    first = pd.read_csv(path, header=None, nrows=1, dtype=str, encoding="utf-8-sig").iloc[0]
    titled = bool(pd.to_numeric(first, errors="coerce").isna().all())
    names = [str(cell).strip().lower() for cell in first] if titled else []
    if len(first) != len(UCI_COLUMNS) or set(COLUMNS) <= set(names):
        _check_header(names, len(first), path)
    else:
        names = list(UCI_COLUMNS)
    header = 0 if titled else None
    frame = pd.read_csv(path, header=header, index_col=False, low_memory=False, encoding="utf-8-sig")
    frame.columns = pd.Index(names)
    return frame if len(names) == len(UCI_COLUMNS) else frame[list(COLUMNS)]


def _check_header(names: list[str], width: int, path: Path) -> None:
    wrong = [name for name in COLUMNS if names.count(name) != 1]
    if wrong:
        what = f"missing, or there twice: {', '.join(wrong)}" if names else f"{width} columns and no header"
        raise DataError(
            f"COVERTYPE_PATH={path}: {what}; expected a header with {', '.join(COLUMNS)},"
            f" or the {len(UCI_COLUMNS)} columns of the published form"
        )


def _fetched(data_home: Path) -> Covertype:
    """scikit-learn's copy, downloaded the first time; raises what ``_UNREACHABLE`` names where there is no network."""
    place = f"fetch_covtype in {data_home}"
    try:
        with _bounded_network():
            x, y = fetch_covtype(data_home=data_home, n_retries=1, return_X_y=True)
    except _UNREACHABLE:
        raise
    except Exception as error:  # a broken download or cache fails in as many ways as gzip and pickle have
        hint = f"remove {data_home / 'covertype'} and try again, or set COVERTYPE_PATH"
        raise DataError(f"{place}: {_line(error)}: {hint}") from None
    if x.ndim != 2 or x.shape[1] != len(UCI_COLUMNS) - 1:
        raise DataError(f"{place}: expected {len(UCI_COLUMNS) - 1} features a row, got the shape {x.shape}")
    return from_frame(pd.DataFrame(np.column_stack([x, y]), columns=list(UCI_COLUMNS)), place, "fetch_covtype")


@contextlib.contextmanager
def _bounded_network() -> Iterator[None]:
    """scikit-learn's download takes no timeout: bound every socket meanwhile, and keep its retries quiet."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Retry downloading")
            yield
    finally:
        socket.setdefaulttimeout(before)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
