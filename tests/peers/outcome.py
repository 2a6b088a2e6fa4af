"""Answers of two servers made comparable, and the differences between them that are known and meant."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.peers.exchange import Answer


@dataclass(frozen=True, slots=True)
class Difference:
    """Requests to which the other server's outcome begins with ``theirs`` and ours with ``ours``, and why so."""

    theirs: str
    ours: str
    why: str
    names: Sequence[str]


def each(start: str, *ends: str) -> tuple[str, ...]:
    """Names that begin alike."""
    return tuple(f"{start} {end}" for end in ends)


def of_scoring(answer: Answer) -> str:
    """The status, and the predictions or the error's code."""
    document = answer.document
    if answer.status == 200:
        given = isinstance(document, dict) and "predictions" in document
        return f"200 {_text(document['predictions']) if given else answer.body!r}"
    code = document.get("error_code") if isinstance(document, dict) else None
    return f"{answer.status} {code}" if code else str(answer.status)


def of_v2(answer: Answer) -> str:
    """The status, and the first output's values or the model's inputs.

    Left out is what differs in every answer, which has a test of its own.
    """
    document = answer.document
    if answer.status != 200 or not isinstance(document, dict):
        return str(answer.status)
    if "model_name" in document:
        output = document["outputs"][0]
        shape = [size for i, size in enumerate(output["shape"]) if i != 1 or size != 1]
        return f"200 {shape} {output['datatype']} {_text(output['data'])}"
    inputs = document.get("inputs", [])
    return " ".join(["200", *(f"{one['name']}:{one['datatype']}:{one['shape']}" for one in inputs)])


def _text(value: object) -> str:
    return json.dumps(_rounded(value), ensure_ascii=False)


def _rounded(value: Any) -> Any:
    """Floats to nine digits: sums of trees may be taken in another order."""
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


def unlisted(outcomes: Mapping[str, tuple[str, str]], differences: Iterable[Difference]) -> list[str]:
    """What is wrong with a table of differences, given theirs and our outcome by the request's name."""
    listed: dict[str, Difference] = {}
    found = []
    for difference in differences:
        wrong = [name for name in difference.names if name in listed or name not in outcomes]
        found += [f"{name}: listed twice, or no request" for name in wrong]
        listed |= dict.fromkeys(difference.names, difference)
    for name, (theirs, ours) in outcomes.items():
        known = listed.get(name)
        if known is None and theirs != ours:
            found.append(f"{name}: {theirs} there, {ours} here")
        elif known is not None and theirs == ours:
            found.append(f"{name}: listed as different, but it is {ours} on both")
        elif known is not None and not (theirs.startswith(known.theirs) and ours.startswith(known.ours)):
            found.append(f"{name}: listed as {known.theirs} and {known.ours}, but {theirs} there, {ours} here")
    return found
