"""Schemathesis over a service's own OpenAPI document: what it sends, what must hold, and what it found."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field

from schemathesis import BaseSchema, Config
from schemathesis.core.failures import Failure
from schemathesis.engine import events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder

_OFF = {"enabled": False}


def config() -> Config:
    """All checks, over the document's examples, the edges of its schemas, and requests drawn at random.

    ``FUZZ_EXAMPLES`` is how many are drawn for an operation, ``FUZZ_SEED`` which.
    """
    return Config.from_dict(
        {
            "seed": int(os.environ.get("FUZZ_SEED", "0")),
            "continue-on-failure": True,
            # How long a request takes to draw says nothing of the service.
            "suppress-health-check": ["all"],
            "generation": {"max-examples": int(os.environ.get("FUZZ_EXAMPLES", "10")), "database": "none"},
            # No request leaves anything behind that another one could find.
            "phases": {"stateful": _OFF},
            "checks": {
                # A schema counts rows, not bytes: the most rows of a request may be more than a body holds.
                "positive_data_acceptance": {"expected-statuses": ["200", "413"]},
                "negative_data_rejection": {"expected-statuses": ["400", "413", "415", "422"]},
            },
            "operations": [
                {
                    "include-path": "/invocations",
                    "checks": {
                        # No schema can say that all rows of a split, or all columns, have one length.
                        "positive_data_acceptance": _OFF,
                        # Lenient, as MLflow's is: it makes 1 of true, and passes over what it does not know.
                        "negative_data_rejection": _OFF,
                    },
                },
                {
                    "include-path-regex": "^/v2/.+/infer$",
                    # No schema can say that a tensor has as many values as its shape, and all columns as many rows.
                    "checks": {"positive_data_acceptance": _OFF},
                },
            ],
        }
    )


@dataclass
class Found:
    """How many requests each operation answered with which status, and what did not hold, each once."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    failures: dict[Failure | str, str] = field(default_factory=dict)

    @property
    def succeeded(self) -> set[str]:
        """The operations that answered with 200."""
        return {operation for operation, status in self.answers if status == 200}

    def __str__(self) -> str:
        lines = (f"{operation}: {count} answers of {status}" for (operation, status), count in self.answers.items())
        return "\n".join([*lines, f"{self.answers.total()} in all", *self.failures.values()])

    def add(self, recorder: ScenarioRecorder) -> None:
        """What one scenario sent and got."""
        for interaction in recorder.interactions.values():
            if interaction.response is not None:
                self.answers[recorder.label, interaction.response.status_code] += 1
        for check in (check for checks in recorder.checks.values() for check in checks):
            if check.failure_info is not None:
                failure = check.failure_info.failure
                text = f"{failure.operation}: {failure}\n{check.failure_info.code_sample}"
                self.failures.setdefault(failure, text)


def fuzz(schema: BaseSchema) -> Found:
    """Every phase over every operation."""
    found = Found()
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            found.add(event.recorder)
        elif isinstance(event, events.NonFatalError):
            found.failures[event.label] = f"{event.label}: {event.value!r}"
        elif isinstance(event, events.FatalError):
            raise event.exception
    return found


def operations(schema: BaseSchema) -> set[str]:
    """All that the document has."""
    return {f"{method.upper()} {path}" for path, item in schema.raw_schema["paths"].items() for method in item}
