"""Tests of the model under measurement: its engines, and the rows to send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from deploy.bench.plan import Plan
from deploy.bench.subject import Subject
from deploy.options import BenchOptions
from server.engines.companion import FLAVORS
from server.engines.loading import suitable_engines
from server.model_store.copies import Copy
from server.settings import Settings
from tests.support.bench_results import INPUTS, RANGES, make_subject


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    return make_subject(tmp_path)


def test_random_rows_are_valid_and_cover_the_ranges(subject: Subject) -> None:
    """Random rows are valid, stay within the ranges and reach both ends of them."""
    documents: list[dict[str, Any]] = subject.documents(500)
    for document in documents:
        subject.mlmodel.require_schema().parse(json.loads(json.dumps(document)), 1)
        assert set(document) == {column["name"] for column in INPUTS}
        assert all(low <= document[name] <= high for name, (low, high) in RANGES.items())
    assert {document["small"] for document in documents} == {1, 2, 3, 4}
    assert {document["wide"] for document in documents} == set(range(-5, 6))
    assert {document["flag"] for document in documents} == {True, False}


def test_strings_are_those_of_the_example(subject: Subject) -> None:
    """Strings come from the model's example, so that the model knows the category."""
    assert {document["word"] for document in subject.documents(10)} == {"red"}


def test_random_rows_are_the_same_in_every_run(subject: Subject) -> None:
    """Two runs send the same rows, so that they can be compared."""
    assert subject.documents(20) == subject.documents(20)


def test_bodies_are_the_rows_of_a_file(subject: Subject, tmp_path: Path) -> None:
    """With a file, the bodies are its rows, each once, in random order."""
    documents = subject.documents(50)
    data = tmp_path / "rows.csv"
    pd.DataFrame(documents).assign(label=1).to_csv(data, index=False)
    bodies = [json.loads(line) for line in subject.write_bodies(tmp_path, data).read_text().splitlines()]
    assert bodies != documents
    assert sorted(bodies, key=str) == sorted(documents, key=str)


def test_bodies_are_a_thousand_distinct_json_lines(subject: Subject, tmp_path: Path) -> None:
    """A thousand bodies are written, one JSON document per line, and almost all of them differ."""
    lines = subject.write_bodies(tmp_path).read_text().splitlines()
    assert len(lines) == 1000
    assert len(set(lines)) > 990
    assert all(set(json.loads(line)) == {column["name"] for column in INPUTS} for line in lines)


def test_record_names_the_copy(subject: Subject, tmp_path: Path) -> None:
    """The file for MODEL_URI names the copy that was found."""
    assert Copy.from_json(json.loads(subject.write_record(tmp_path).read_text())) == subject.copy


def test_all_available_engines_are_measured_in_order(tmp_path: Path) -> None:
    """All engines of the model are measured, in the order of preference."""
    subject = make_subject(tmp_path, python_function={}, sklearn={})
    chosen = subject.engines(Settings.from_env({}), Plan.of(BenchOptions.read({})))
    assert chosen == suitable_engines(subject.mlmodel)
    assert {"sklearn", "pyfunc"} <= set(chosen)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [({"QUICK": "1"}, ["auto"]), ({"ENGINE": "pyfunc"}, ["pyfunc"]), ({"QUICK": "1", "ENGINE": "pyfunc"}, ["pyfunc"])],
)
def test_named_engine_is_the_only_choice(environ: dict[str, str], expected: list[str], subject: Subject) -> None:
    """An engine in ENGINE is the only one measured, and a quick run lets the replica choose."""
    assert subject.engines(Settings.from_env(environ), Plan.of(BenchOptions.read(environ))) == expected


def test_description_has_the_nodes_of_a_compiled_forest(subject: Subject, tmp_path: Path) -> None:
    """The description of a compiled forest has its number of nodes, and that of other models has not."""
    assert subject.description == "made version 7, 1,234 nodes"
    assert make_subject(tmp_path, sklearn={}).description == "made version 7"
    assert make_subject(tmp_path, **{FLAVORS["forest"]: {"data": "gone"}}).description == "made version 7"
