"""Translation of scikit-learn's errors about a row's values into errors of the request."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from server.errors import Fault, InvalidRows, first_line

# Messages of scikit-learn's check of arrays and of its encoders, which raise plain ValueError.
_VALUE_ERRORS = re.compile(r"Input (X )?contains (NaN|infinity)|Found unknown categor")


@contextmanager
def translated_row_errors() -> Iterator[None]:
    """Turn scikit-learn's ValueError about a value of the rows into InvalidRows.

    Raises:
        InvalidRows: the estimator does not accept a value of the rows.
    """
    try:
        yield
    except ValueError as error:
        reason = first_line(error)
        if not _VALUE_ERRORS.search(reason):
            raise
        detail = f"the model does not accept a value of the row: {reason[:200]}"
        raise InvalidRows(detail, [Fault(detail, "#")]) from None
