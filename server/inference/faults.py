"""The faults of a request's rows: their limit, their places as JSON pointers, and the errors that list them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote

from server.errors import Fault, InvalidRows
from server.inference.columns import show

# The most faults that one answer lists: enough to fix a client, and too few for an amplification attack.
MAX_FAULTS = 20


def check_row_count(rows: int, pointer: str, max_rows: int) -> None:
    """Refuse a request with too many rows.

    Raises:
        InvalidRows: there are more than ``max_rows`` rows.
    """
    if rows > max_rows:
        raise invalid_rows([Fault(f"must have at most {max_rows} rows, got {rows}", pointer)])


def require_rows(rows: object, pointer: str, max_rows: int) -> Sequence[Any]:
    """Return a list of 1 to ``max_rows`` rows, or raise InvalidRows if ``rows`` is not one."""
    if not isinstance(rows, list) or not rows:
        raise invalid_rows([Fault(f"must be a list of at least one row, got {show(rows)}", pointer)])
    check_row_count(len(rows), pointer, max_rows)
    return rows


def invalid_rows(faults: Sequence[Fault]) -> InvalidRows:
    """Return the error for a request with these faults: its message names the first, and how many there are."""
    shown = faults[:MAX_FAULTS]
    first = shown[0]
    location = "the body" if first.pointer == "#" else unquote(first.pointer.removeprefix("#/")).replace("/", ".")
    more = f" (and {len(shown) - 1} more)" if len(shown) > 1 else ""
    return InvalidRows(f"{location} {first.detail}{more}", shown)


def json_pointer(pointer: str, *keys: object) -> str:
    """Return the JSON pointer (RFC 6901), as a URI fragment, of the value at ``keys`` inside the one at ``pointer``."""
    return "/".join([pointer, *map(escape, keys)])


def escape(key: object) -> str:
    """Return a key as a token of a JSON pointer in a URI fragment (RFC 6901, section 6), truncated if it is long."""
    return quote(str(key)[:100].replace("~", "~0").replace("/", "~1"), safe="!$&'()*+,;=:@~")
