"""Error messages of calls that must fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deploy.errors import CommandError


def refusal(
    call: Callable[[], object], error: type[Exception] | tuple[type[Exception], ...] = CommandError, secret: str = ""
) -> str:
    """Return the message of the error that a call must raise; check that it is one line and omits ``secret``."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert not secret or secret not in message
    return message
