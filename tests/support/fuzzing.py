"""Fuzz tests of a service against its own OpenAPI document, with Schemathesis."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from schemathesis import BaseSchema, Config, HookContext
from schemathesis.core.failures import Failure
from schemathesis.engine import events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder

_OFF = {"enabled": False}
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


def config(*, only_predictions: bool = False) -> Config:
    """Return a configuration with all checks over the document's examples, boundary values and random requests.

    ``only_predictions`` leaves out all GET requests.

    The environment variable ``FUZZ_EXAMPLES`` is the number of random requests per operation, ``FUZZ_SEED`` their seed.
    """
    return Config.from_dict(
        {
            "seed": int(os.environ.get("FUZZ_SEED", "0")),
            "continue-on-failure": True,
            # The time that it takes to draw a request says nothing about the service.
            "suppress-health-check": ["all"],
            "generation": {"max-examples": int(os.environ.get("FUZZ_EXAMPLES", "10")), "database": "none"},
            # The service keeps no state between requests.
            "phases": {"stateful": _OFF},
            "checks": {
                # A schema limits rows, not bytes: a body with the maximum number of rows may be too large.
                "positive_data_acceptance": {"expected-statuses": ["200", "413"]},
                "negative_data_rejection": {"expected-statuses": ["400", "413", "415", "422"]},
            },
            "operations": [
                *([{"include-method": "GET", "enabled": False}] if only_predictions else []),
                {
                    "include-path": "/invocations",
                    "checks": {
                        # A schema cannot require that all rows, or all columns, have the same length.
                        "positive_data_acceptance": _OFF,
                        # Lenient as MLflow's: it converts true to 1 and ignores unknown fields.
                        "negative_data_rejection": _OFF,
                    },
                },
                {
                    "include-path-regex": "^/v2/.+/infer$",
                    # A schema cannot require that a tensor's data fits its shape, or that columns have equal lengths.
                    "checks": {"positive_data_acceptance": _OFF},
                },
            ],
        }
    )


@dataclass
class FuzzResult:
    """The number of answers by operation and status, and each distinct failure."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    failures: dict[Failure | str, str] = field(default_factory=dict)

    @property
    def succeeded(self) -> set[str]:
        """The operations that answered at least once with status 200."""
        return {operation for operation, status in self.answers if status == 200}

    def __str__(self) -> str:
        lines = (f"{operation}: {count} answers with {status}" for (operation, status), count in self.answers.items())
        return "\n".join([*lines, f"{self.answers.total()} answers in total", *self.failures.values()])

    def add(self, recorder: ScenarioRecorder) -> None:
        """Count the answers and failures of one scenario."""
        for interaction in recorder.interactions.values():
            if interaction.response is not None:
                self.answers[recorder.label, interaction.response.status_code] += 1
        for check in (check for checks in recorder.checks.values() for check in checks):
            if check.failure_info is not None:
                failure = check.failure_info.failure
                text = f"{failure.operation}: {failure}\n{check.failure_info.code_sample}"
                self.failures.setdefault(failure, text)


def exclude_large_numbers(schema: BaseSchema) -> None:
    """Generate no numbers that a float32 cannot hold: trees refuse them, which the schema of a double cannot say."""

    def filter_body(_context: HookContext, body: object) -> bool:
        return not _has_large_number(body)

    schema.hook(filter_body)


def _has_large_number(document: object) -> bool:
    match document:
        case int() | float():
            return abs(document) > _LARGEST_FLOAT32
        case dict():
            return any(_has_large_number(value) for value in document.values())
        case list():
            return any(_has_large_number(value) for value in document)
    return False


def fuzz(schema: BaseSchema) -> FuzzResult:
    """Run every phase over every operation."""
    result = FuzzResult()
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            result.add(event.recorder)
        elif isinstance(event, events.NonFatalError):
            result.failures[event.label] = f"{event.label}: {event.value!r}"
        elif isinstance(event, events.FatalError):
            raise event.exception
    return result


def operations(schema: BaseSchema) -> set[str]:
    """Return all operations of the document, such as ``POST /predict``."""
    return {f"{method.upper()} {path}" for path, item in schema.raw_schema["paths"].items() for method in item}
