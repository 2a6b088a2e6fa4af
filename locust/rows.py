"""Rows to predict: drawn within what the served model's training observed, or from a file."""

from __future__ import annotations

import csv
import gzip
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from ssl import SSLContext
from typing import Any
from urllib.parse import SplitResult
from urllib.request import Request, urlopen

from failures import CannotStartError

Feature = Mapping[str, Any]
Row = dict[str, object]

# Where the model states no range for a number.
_UNLIMITED = (0, 1000)
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def describe(place: SplitResult, tls: SSLContext | None, headers: Mapping[str, str]) -> Mapping[str, Feature]:
    """The features by name, from the service's own OpenAPI document.

    Raises:
        CannotStartError: it does not answer, or not with that.
    """
    host = f"{place.scheme}://{place.netloc}{place.path.rstrip('/')}"
    asked = Request(f"{host}/openapi.json", headers=dict(headers))  # noqa: S310  (http or https, as was checked)
    try:
        with urlopen(asked, timeout=10, context=tls) as answer:  # noqa: S310
            features: Mapping[str, Feature] = json.load(answer)["components"]["schemas"]["Features"]["properties"]
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        raise CannotStartError(f"{host} does not describe its model: {error}") from None
    return features


def drawn(features: Mapping[str, Feature], count: int) -> list[Row]:
    """Random rows, each value within what training observed of its feature or, without that, in its range."""
    draws = {name: _draw(feature) for name, feature in features.items()}
    return [{name: draw() for name, draw in draws.items()} for _ in range(count)]


def read(path: Path, features: Mapping[str, Feature], count: int) -> list[Row]:
    """As many rows of a CSV file, plain or gzipped, chosen evenly from all of it; columns of no feature are left out.

    Raises:
        CannotStartError: there is no such file, a feature is missing in it, or a value is not of its feature's type.
    """
    try:
        with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
            lines = csv.reader(file)
            places = _places(path, next(lines, []), features)
            sample = _sample(enumerate(lines, start=2), count)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise CannotStartError(f"--data {path}: {error}") from None
    if not sample:
        raise CannotStartError(f"--data {path} has no rows")
    return [_row(path, number, line, features, places) for number, line in sample]


def _draw(feature: Feature) -> Callable[[], object]:
    limits = feature.get("minimum", _UNLIMITED[0]), feature.get("maximum", _UNLIMITED[1])
    low, high = feature.get("x-observed", limits)
    draws: dict[str, Callable[[], object]] = {
        "integer": lambda: random.randint(math.ceil(low), math.floor(high)),
        "number": lambda: random.uniform(low, high),
        "boolean": lambda: random.random() < 0.5,
    }
    return draws.get(_kind(feature), lambda: "string")


def _kind(feature: Feature) -> str:
    return str(feature["type"][0] if isinstance(feature["type"], list) else feature["type"])


def _places(path: Path, header: list[str], features: Mapping[str, Feature]) -> dict[str, int]:
    missing = [name for name in features if name not in header]
    if missing:
        raise CannotStartError(f"--data {path} lacks {', '.join(missing)}: expected a column for each feature")
    return {name: header.index(name) for name in features}


def _sample(lines: Iterator[tuple[int, list[str]]], most: int) -> list[tuple[int, list[str]]]:
    """Any line of the file with the same chance, while only ``most`` are held."""
    kept: list[tuple[int, list[str]]] = []
    for seen, line in enumerate(lines):
        if seen < most:
            kept.append(line)
        elif (place := int(random.random() * (seen + 1))) < most:
            kept[place] = line
    return kept


def _row(path: Path, number: int, line: list[str], features: Mapping[str, Feature], places: Mapping[str, int]) -> Row:
    try:
        return {name: _value(line[places[name]], _kind(feature)) for name, feature in features.items()}
    except (ValueError, IndexError) as error:
        raise CannotStartError(f"--data {path}, line {number}: {error}") from None


def _value(text: str, kind: str) -> object:
    """A cell in the JSON type of its feature; an empty one is null."""
    if text == "":
        return None
    if kind == "integer" and float(text).is_integer():
        return int(float(text))
    if kind in ("integer", "number"):
        return float(text)
    if kind == "boolean":
        if text.lower() not in _BOOLEANS:
            raise ValueError(f"expected true or false, not {text!r}")
        return _BOOLEANS[text.lower()]
    return text
