"""What scikit-learn refuses of a row is the row's fault, and not the server's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from server.errors import Fault, InvalidRows, first_line

# Its check of an array, and its encoders' of a category; it has no class of errors for either.
_OF_THE_ROWS = re.compile(r"Input (X )?contains (NaN|infinity)|Found unknown categor")


@contextmanager
def refused_rows() -> Iterator[None]:
    """Raise what scikit-learn says of the rows as what it is.

    Raises:
        InvalidRows: scikit-learn found a value that the estimator does not take.
    """
    try:
        yield
    except ValueError as error:
        reason = first_line(error)
        if not _OF_THE_ROWS.search(reason):
            raise
        detail = f"the model does not take a value of the row: {reason[:200]}"
        raise InvalidRows(detail, [Fault(detail, "#")]) from None
