"""Comparable summaries of two servers' answers, and the check of the intended differences between them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.peers.exchange import Answer


@dataclass(frozen=True, slots=True)
class Difference:
    """An intended difference: outcomes that begin with ``theirs`` and ``ours``, the reason, and the requests' names."""

    theirs: str
    ours: str
    reason: str
    names: Sequence[str]


def each(start: str, *ends: str) -> tuple[str, ...]:
    """Return names with a common beginning."""
    return tuple(f"{start} {end}" for end in ends)


def scoring_outcome(answer: Answer) -> str:
    """Return the status with the predictions or the error's code."""
    document = answer.document
    if answer.status == 200:
        has_predictions = isinstance(document, dict) and "predictions" in document
        return f"200 {_text(document['predictions']) if has_predictions else answer.body!r}"
    code = document.get("error_code") if isinstance(document, dict) else None
    return f"{answer.status} {code}" if code else str(answer.status)


def v2_outcome(answer: Answer) -> str:
    """Return the status with the first output's values or with the model's inputs.

    Dimensions of size 1 are left out, because they differ in every answer, which another test covers.
    """
    document = answer.document
    if answer.status != 200 or not isinstance(document, dict):
        return str(answer.status)
    if "model_name" in document:
        output = document["outputs"][0]
        shape = [size for i, size in enumerate(output["shape"]) if i != 1 or size != 1]
        return f"200 {shape} {output['datatype']} {_text(output['data'])}"
    inputs = document.get("inputs", [])
    return " ".join(["200", *(f"{tensor['name']}:{tensor['datatype']}:{tensor['shape']}" for tensor in inputs)])


def _text(value: object) -> str:
    return json.dumps(_rounded(value), ensure_ascii=False)


def _rounded(value: Any) -> Any:
    """Round floats to nine digits, because the trees of a forest may be summed in another order."""
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


def check_differences(outcomes: Mapping[str, tuple[str, str]], differences: Iterable[Difference]) -> list[str]:
    """Return the errors in a table of differences; ``outcomes`` has their and our outcome by the request's name."""
    listed: dict[str, Difference] = {}
    errors = []
    for difference in differences:
        invalid = [name for name in difference.names if name in listed or name not in outcomes]
        errors += [f"{name}: listed twice, or not the name of a request" for name in invalid]
        listed |= dict.fromkeys(difference.names, difference)
    for name, (theirs, ours) in outcomes.items():
        known = listed.get(name)
        if known is None and theirs != ours:
            errors.append(f"{name}: unlisted difference, theirs {theirs}, ours {ours}")
        elif known is not None and theirs == ours:
            errors.append(f"{name}: listed as different, but both are {ours}")
        elif known is not None and not (theirs.startswith(known.theirs) and ours.startswith(known.ours)):
            errors.append(f"{name}: listed as {known.theirs} and {known.ours}, got {theirs} and {ours}")
    return errors
