"""The intended differences between Forkcast's and MLServer's answers in the Open Inference Protocol, with reasons."""

from __future__ import annotations

from tests.peers.outcome import Difference, each
from tests.peers.v2 import INFER

_PARSER = Difference(
    "422", "400", "MLServer's parser uses a status and a form of its own; the protocol defines 400 and {error}",
    (
        "id number", "parameters of another form",
        *each("outputs", "without a name", "as names"), "binary data", "binary data's size alone",
        *each("body", "empty", "number", "null", "list", "text", "empty object", "cut off", "too long", "not UTF-8"),
        *each("body", "with a trailing comma", "with a byte order mark", "nested deeply"),
        *each("inputs", "null", "object", "of numbers", "text"),
        *each("a column without", "name", "shape", "datatype", "data"),
        *each("a column with", "name null", "shape null", "datatype null"),
        *each("a column with", "name as an object", "shape as an object", "datatype as an object"),
        *each("a column of shape", "[1180591620717411303424]", "[0.5]", "[null]", "1", '"[1, 1]"'),
        *each("a long column as", "'int64'", "'INT128'", "'STRING'", "''", "'TYPE_INT64'"),
        'colour BYTES "\\ud800"', *each("count INT32", "1e400", "NaN"), "total INT64 NaN",
        *each("height FP32", "NaN", "Infinity", "1e400"), *each("weight FP64", "NaN", "-Infinity"),
    ),
)  # fmt: skip

_CRASH = Difference(
    "500", "400", "a defect of MLServer: an uncaught exception",
    (
        "inputs empty", "a column missing", "an unknown column instead", "columns of unequal lengths",
        "one column alone", "a matrix and a column", "no rows covertype", "a matrix of no rows",
        *each("a column with data", "null", "as an object"),
        *each("a column of shape", "[2, 1]", "[1, 2]", "[0]", "[]", "[1000000000]", "[1000000000000, 1]"),
        *each("a column of shape", "[9223372036854775808, 1]"),
        *each("a matrix of shape", "[12]", "[12, 1]", "[1, 6]", "[2, 6]", "[1, 12, 1]", "[0, 12]", "[1, 13]"),
        *each("a matrix of shape", "[1000000000, 12]", "[4611686018427387904, 12]"),
        *each("a matrix with", "nothing", "one value too many", "a ragged list", "a list and values", "a number"),
        *each("a matrix with", "text", "an object"), *each("a long column as", "'BOOL'", "'BYTES'"),
        *each("colour as", "INT64 7", "FP64 7.5"), "count as FP64 7.5", "total as UINT64 9223372036854775808",
        *each("weight as", "BYTES '0.1'", "UINT8 256", "UINT8 -1", "INT8 128", "UINT64 18446744073709551616"),
        *each("fragile as", "INT8 1", "UINT8 0", "INT64 2", "BYTES 'true'"),
        *each("count INT32", "null", "2147483648", "-2147483649"),
        *each("total INT64", "null", "9223372036854775808", "1e30"),
    ),
)  # fmt: skip

_MORE_LENIENT = (
    Difference(
        "500", "200", "any datatype is accepted if the value fits the column; MLServer accepts safe casts only",
        (
            *each("a long column as", "'UINT64'", "'FP16'", "'FP32'", "'FP64'"),
            *each("count as", "INT64 7", "FP64 7.0"), *each("height as", "FP64 0.1", "INT64 7"),
            *each("weight as", "INT64 7", "INT64 -9223372036854775808"),
            *each("weight as", "UINT64 9007199254740992", "UINT64 18446744073709551615"),
        ),
    ),
    Difference("500", "200", "MLServer's own content types are ignored here", ("a matrix as pd",)),
    Difference("422", "200", "NaN is a missing value, as Triton's client writes it", ("age FP64 NaN",)),
    Difference(
        "200", "200", "strings may be nested; in MLServer nested strings become empty",
        ('colour BYTES ["red"]', "nested columns mixed"),
    ),
)  # fmt: skip

_STRICTER = (
    Difference(
        "422", "415", "the Content-Type is not JSON",
        each("as", "'text/plain'", "'application/octet-stream'", "'application/x-www-form-urlencoded'", "'text/csv'"),
    ),
    Difference("422", "404", "models cannot be loaded by request", ("POST /v2/repository/index",)),
    Difference("307", "404", "a path has one spelling, and there are no redirects", (f"POST {INFER}/",)),
    Difference("200", "400", "only MLServer has probabilities of all classes", ("outputs with probabilities",)),
    Difference("200", "400", "MLServer sends an output as often as it is named", ("outputs by name, twice",)),
    Difference("200", "400", "unknown and repeated columns are errors", ("a column twice", "an unknown column beside")),
    Difference(
        "200", "400", "a shape has one or two integers from 0; in MLServer, NumPy infers a size of -1",
        (
            *each("a column of shape", "[-1, 1]", "[1, -1]", "[-1]", "[1, 1, 1]", "[1.0, 1]", '["1", 1]', "[true, 1]"),
            *each("a matrix of shape", "[-1, 12]", "[1, -12]"),
        ),
    ),
    Difference(
        "200", "400", "data is flat or nested as its shape says; MLServer flattens any nesting",
        (*each("a matrix with", "two lists of six", "lists too deep", "lists of one"), "count INT32 [[7]]"),
    ),
    Difference("200", "400", "a request needs at least one row", ("no rows mixed",)),
    Difference(
        "200", "400", "a value must be of its tensor's datatype; in MLServer, NumPy converts it",
        (
            *each("count INT32", "7.5", '"7"', "true"), *each("total INT64", "7.5", '"7"', "true"),
            *each("height FP32", '"0.5"', "null"), *each("weight FP64", '"0.5"', "null", "true"),
            *each("fragile BOOL", "0", "1", "2", '"true"', "null", "1.0"),
        ),
    ),
    Difference(
        "200", "400", "a value that is not text becomes empty text in MLServer",
        each("colour BYTES", "7", "true", "null", "[]", "{}"),
    ),
    Difference("200", "400", "the value becomes infinite in MLServer", ("height FP32 1e39", "weight as FP16 65536")),
    Difference("200", "400", "float64 is exact up to 2**53", ("total INT64 9007199254740993",)),
)  # fmt: skip

DIFFERENCES = (_PARSER, _CRASH, *_MORE_LENIENT, *_STRICTER)
