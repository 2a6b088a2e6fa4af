"""Where Forkcast answers ``/invocations`` otherwise than MLflow's own server, and why."""

from __future__ import annotations

from tests.peers.outcome import Difference, each

_SCHEMA, _BAD = "400 INVALID_PARAMETER_VALUE", "400 BAD_REQUEST"


def _as_inputs(*names: str) -> tuple[str, ...]:
    return (*names, *(f"{name} as inputs" for name in names))


_FORMS = (
    Difference(
        _SCHEMA, _BAD, "found here in the values; there, when the schema is enforced",
        (
            *each("instances:", "lists of lists by column"), "CSV with a comment",
            *each("inputs:", "lists of lists by column", "records, one without a column"),
        ),
    ),
    Difference(
        _BAD, _SCHEMA, "no table, as far as the schema is concerned; there, a fault of their own",
        ("instances: lists of unequal lengths", "instances: null", "inputs: null"),
    ),
    Difference(
        _SCHEMA, _BAD, "the forms of language models are none here; there, they are taken for a row and then refused",
        ("chat messages", "prompt", "embeddings input"),
    ),
    Difference(
        _SCHEMA, "200", "instances are records, each with its own keys, as dataframe_records are on both",
        ("instances: records, one with an extra column", "optional column missing in one instance"),
    ),
    Difference(_SCHEMA, _BAD, "no rows: found here before the schema is enforced", ("records empty",)),
    Difference("200", _BAD, "what is passed over there could have been meant", ("params list", "params text")),
)  # fmt: skip

_HTTP = (
    Difference("200", _BAD, "JSON is unmarked UTF-8 (RFC 8259)", each("body", "with a byte order mark", "UTF-16")),
    Difference("500", _BAD, "a defect of MLflow's: its parser runs out of stack", ("body nested deeply",)),
    Difference("500", "415", "a defect of MLflow's: it expects the header", ("JSON as None",)),
    Difference(
        "415", "200", "types and charsets have no case and may be quoted (RFC 9110); utf8 is a common slip",
        (
            *each("JSON as", "'application/json; charset=\"utf-8\"'", "'application/json; charset=utf8'"),
            *each("JSON as", "'application/json;'", "'application/json; Charset=utf-8'", "'APPLICATION/JSON'"),
            "CSV as 'TEXT/CSV'",
        ),
    ),
    Difference("200 b'\\n'", "200 b'{", "/health is Forkcast's own, with a body that tells more", ("GET /health",)),
    Difference("405", "200", "HEAD is answered wherever GET is (RFC 9110)", ("HEAD /ping",)),
    Difference("307", "404", "no redirects: a path has one name", ("GET /ping/", "POST /invocations/")),
)  # fmt: skip

_VALUES = (
    Difference(
        "200", _BAD, "infinity is no JSON (RFC 8259), nor is a number that no double holds",
        tuple(
            name for column in ("string", "float", "double", "boolean", "optional double")
            for name in each(column, "1e400", "Infinity", "-Infinity")
        ),
    ),
    Difference(
        "200", _BAD, "a required column has no missing values: there, one becomes NaN, False, True or the text None",
        (
            *(name for column in ("string", "float", "double", "boolean") for name in each(column, "null", "NaN")),
            *_as_inputs("double 0.5 and None", "boolean True and None", "string 'red' and None"),
            *each("CSV with", "an empty string", "NA in a string", "an empty double", "nan in a double"),
            "Parquet with a null",
        ),
    ),
    Difference(
        "200", _BAD, "text is no boolean: there, all text but the empty one is True, \"False\" as well",
        (
            *each("boolean", '"2596"', '" 7 "', '"2.5"', '"1e3"', '"0x10"', '"1_000"', '"true"', '"False"', '"abc"'),
            *each("boolean", '""', '"nan"', '"inf"', '"größe 高"'), *_as_inputs("boolean True and 'true'"),
        ),
    ),
    Difference(
        "200", _BAD, "a list or an object is no value: there, its text or its truth is taken",
        (*each("boolean", "[]", "[1]", "{}"), *each("string", "[]", "[1]", "{}")),
    ),
    Difference(
        "200", _BAD, "a number that the column's type does not hold: there, it wraps around or becomes infinite",
        (
            *each("integer", "2147483648", "-2147483649", "9007199254740993", "9223372036854775807"),
            *each("integer", "9223372036854775808", "1e39", "3 and 2147483648"), "float 1e39",
            *each("long", "9223372036854775808", "1e39"),
        ),
    ),
    Difference(
        "200", _BAD, "rows are float64 here, which holds whole numbers up to 2**53",
        each("long", "9007199254740993", "9223372036854775807"),
    ),
    Difference(
        "200", _BAD, "the text of a number that is none, or infinite",
        (
            *(name for column in ("float", "double", "optional double") for name in each(column, '"nan"', '"inf"')),
            *each("CSV with", "inf in a double", "1e400 in a double"),
        ),
    ),
    Difference("200", "200", "beyond 64 bits JSON's numbers are read as floats", ("string 18446744073709551616",)),
)  # fmt: skip

_TABLES = (
    Difference("200", _BAD, "a row may not be longer than the header; there, it is shifted", ("CSV with a long row",)),
    Difference("200", "415", "Parquet is read where pandas is in memory", ("Parquet for a model without pandas",)),
    Difference(
        _SCHEMA, "200", "a file's values are taken as those of JSON are; there, its types must fit without loss",
        each("Parquet of", "whole numbers", "text", "booleans", "wider types"),
    ),
    Difference(_SCHEMA, _BAD, "found here in the values", each("Parquet of", "dates", "lists")),
)  # fmt: skip

DIFFERENCES = (*_FORMS, *_HTTP, *_VALUES, *_TABLES)
