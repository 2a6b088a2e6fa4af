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
_WIDEST = 1e9
# The key of a feature's value in the example of the service's document.
_EXAMPLE = "example"
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
            row = json.load(answer)["components"]["schemas"]["Features"]
        example = row.get("examples", [{}])[0]
        # A model that names no columns is asked for its example's.
        features = row["properties"] or {name: {} for name in example}
        return {name: {**feature, _EXAMPLE: example.get(name)} for name, feature in features.items()}
    except (OSError, HTTPException, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CannotStartError(f"{host} does not describe its model: {error}") from None


def drawn(features: Mapping[str, Feature], count: int) -> list[Row]:
    """Random rows, each value within what training observed of its feature or, without that, in its range.

    Values that are neither numbers nor booleans are those of the example.
    """
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
    example = feature.get(_EXAMPLE)
    # A column without a type takes numbers around its example's, unless that is whole: it may be a category.
    if "type" not in feature and isinstance(example, float):
        return lambda: random.uniform(0, 2 * abs(example) or 1)
    limits = feature.get("minimum", _UNLIMITED[0]), feature.get("maximum", _UNLIMITED[1])
    low, high = feature.get("x-observed", limits)
    if high - low > _WIDEST:  # the range of a type, such as all 64-bit numbers
        low, high = max(low, _UNLIMITED[0]), min(high, _UNLIMITED[1])
    draws: dict[str, Callable[[], object]] = {
        "integer": lambda: random.randint(math.ceil(low), math.floor(high)),
        "number": lambda: random.uniform(low, high),
        "boolean": lambda: random.random() < 0.5,
    }
    json_type = _json_type(feature)
    return draws.get(json_type, lambda: "string" if example is None and json_type == "string" else example)


def _json_type(feature: Feature) -> str:
    """Name the JSON type of a feature; "" if it has none."""
    json_type = feature.get("type", "")
    return str(json_type[0] if isinstance(json_type, list) else json_type)


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
        return {name: _value(line[places[name]], _json_type(feature)) for name, feature in features.items()}
    except (ValueError, IndexError) as error:
        raise CannotStartError(f"--data {path}, line {number}: {error}") from None


def _value(text: str, json_type: str) -> object:
    """A cell in the JSON type of its feature; an empty one is null."""
    if text == "":
        return None
    if json_type == "integer" and float(text).is_integer():
        return int(float(text))
    if json_type in ("integer", "number"):
        return float(text)
    if json_type == "boolean":
        if text.lower() not in _BOOLEANS:
            raise ValueError(f"expected true or false, not {text!r}")
        return _BOOLEANS[text.lower()]
    if json_type in ("array", "object"):
        return json.loads(text)
    return _number_or_text(text) if json_type == "" else text


def _number_or_text(text: str) -> object:
    """A cell of a column without a type: a number if it reads as one."""
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() else number
