"""Saying why a test does not start, or goes no further."""

from __future__ import annotations

import json
import logging
import time
from typing import Any


def refuse(environment: Any, reason: str) -> None:
    """One line where the user looks: on the terminal, in the UI's log, or among the recorded lines."""
    if environment.parsed_options.record:
        line = json.dumps({"kind": "error", "time": time.time(), "message": reason})
        print(line, flush=True)
    elif environment.web_ui is None:
        print(reason, flush=True)
    else:
        logging.getLogger(__name__).error(reason)
    environment.process_exit_code = 1
