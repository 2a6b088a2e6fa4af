"""The intended differences between Forkcast's and MLflow's answers at ``/invocations``, with their reasons."""

from __future__ import annotations

from tests.peers.outcome import Difference, each

_SCHEMA, _BAD = "400 INVALID_PARAMETER_VALUE", "400 BAD_REQUEST"


def _as_inputs(*names: str) -> tuple[str, ...]:
    return (*names, *(f"{name} as inputs" for name in names))


_FORMS = (
    Difference(
        _SCHEMA, _BAD, "here the values are invalid; MLflow reports it when it enforces the schema",
        (
            *each("instances:", "lists of lists by column"), "CSV with a comment",
            *each("inputs:", "lists of lists by column", "records, one without a column"),
        ),
    ),
    Difference(
        _BAD, _SCHEMA, "here it does not match the schema; MLflow reports it as a bad request",
        ("instances: lists of unequal lengths", "instances: null", "inputs: null"),
    ),
    Difference(
        _SCHEMA, _BAD, "forms of language models are unknown here; MLflow takes them for a row and then rejects it",
        ("chat messages", "prompt", "embeddings input"),
    ),
    Difference(
        _SCHEMA, "200", "here each instance may have its own keys, as each of dataframe_records may on both",
        ("instances: records, one with an extra column", "optional column missing in one instance"),
    ),
    Difference(_SCHEMA, _BAD, "missing rows are found here before the schema is enforced", ("records empty",)),
    Difference("200", _BAD, "MLflow ignores invalid params, which hides mistakes", ("params list", "params text")),
)  # fmt: skip

_HTTP = (
    Difference("200", _BAD, "JSON is UTF-8 without a BOM (RFC 8259)", each("body", "with a byte order mark", "UTF-16")),
    Difference("500", _BAD, "a defect of MLflow: its parser exceeds the stack", ("body nested deeply",)),
    Difference("500", "415", "a defect of MLflow: it requires the header", ("JSON as None",)),
    Difference(
        "415", "200", "letter case and quotes do not matter (RFC 9110), and utf8 is a common spelling",
        (
            *each("JSON as", "'application/json; charset=\"utf-8\"'", "'application/json; charset=utf8'"),
            *each("JSON as", "'application/json;'", "'application/json; Charset=utf-8'", "'APPLICATION/JSON'"),
            "CSV as 'TEXT/CSV'",
        ),
    ),
    Difference("200 b'\\n'", "200 b'{", "/health has Forkcast's own JSON body", ("GET /health",)),
    Difference("405", "200", "HEAD is allowed wherever GET is (RFC 9110)", ("HEAD /ping",)),
    Difference("307", "404", "a path has one spelling, without redirects", ("GET /ping/", "POST /invocations/")),
)  # fmt: skip

_VALUES = (
    Difference(
        "200", _BAD, "infinity and numbers beyond float64 are invalid JSON here (RFC 8259)",
        tuple(
            name for column in ("string", "float", "double", "boolean", "optional double")
            for name in each(column, "1e400", "Infinity", "-Infinity")
        ),
    ),
    Difference(
        "200", _BAD, "a required column rejects null; MLflow makes it NaN, False, True or the text None",
        (
            *(name for column in ("string", "float", "double", "boolean") for name in each(column, "null", "NaN")),
            *_as_inputs("double 0.5 and None", "boolean True and None", "string 'red' and None"),
            *each("CSV with", "an empty string", "NA in a string", "an empty double", "nan in a double"),
            "Parquet with a null",
        ),
    ),
    Difference(
        "200", _BAD, "text is not a boolean; MLflow takes any text but the empty one for True, even \"False\"",
        (
            *each("boolean", '"2596"', '" 7 "', '"2.5"', '"1e3"', '"0x10"', '"1_000"', '"true"', '"False"', '"abc"'),
            *each("boolean", '""', '"nan"', '"inf"', '"größe 高"'), *_as_inputs("boolean True and 'true'"),
        ),
    ),
    Difference(
        "200", _BAD, "a list or an object is not a value; MLflow takes its text or its truth value",
        (*each("boolean", "[]", "[1]", "{}"), *each("string", "[]", "[1]", "{}")),
    ),
    Difference(
        "200", _BAD, "the number is beyond the column's type; in MLflow it wraps around or becomes infinite",
        (
            *each("integer", "2147483648", "-2147483649", "9007199254740993", "9223372036854775807"),
            *each("integer", "9223372036854775808", "1e39", "3 and 2147483648"), "float 1e39",
            *each("long", "9223372036854775808", "1e39"),
        ),
    ),
    Difference(
        "200", _BAD, "rows are float64 here, which is exact for integers up to 2**53",
        each("long", "9007199254740993", "9223372036854775807"),
    ),
    Difference(
        "200", _BAD, "text for NaN or infinity is not a number",
        (
            *(name for column in ("float", "double", "optional double") for name in each(column, '"nan"', '"inf"')),
            *each("CSV with", "inf in a double", "1e400 in a double"),
        ),
    ),
    Difference("200", "200", "integers beyond 64 bits are decoded as floats", ("string 18446744073709551616",)),
)  # fmt: skip

_TABLES = (
    Difference("200", _BAD, "a row may not be longer than the header; MLflow shifts it", ("CSV with a long row",)),
    Difference("200", "415", "Parquet needs an engine with pandas", ("Parquet for a model without pandas",)),
    Difference(
        _SCHEMA, "200", "values are converted as in JSON; MLflow requires types that convert without loss",
        each("Parquet of", "whole numbers", "text", "booleans", "wider types"),
    ),
    Difference(_SCHEMA, _BAD, "here the values are invalid", each("Parquet of", "dates", "lists")),
)  # fmt: skip

DIFFERENCES = (*_FORMS, *_HTTP, *_VALUES, *_TABLES)
