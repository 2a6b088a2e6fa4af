"""MLflow's scoring protocol, as ``mlflow models serve`` speaks it: ``POST /invocations``, ``/ping``, ``/version``.

Source: https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally, and mlflow/pyfunc/scoring_server of MLflow
3.17. Values are converted under the lenient :class:`server.inference.columns.Policy`. The forms of a request are
described at :meth:`ScoringProtocol._rows`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from server.errors import InvalidBody, RequestError, RoutingError, SchemaMismatch, UnsupportedMediaType
from server.inference.columns import Policy, show
from server.inference.model import Model
from server.inference.rows import Prediction, Row
from server.inference.schema import RowTable
from server.metrics.counts import INVOCATIONS
from server.protocols import csv_parquet, json_codec
from server.protocols.endpoint import BodyReader, ErrorAnswer, PredictionRequest
from server.protocols.predict import problem
from server.protocols.request_body import Headers

CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"

_FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_EXPECTED_BODY = "the body must be an object with exactly one of " + ", ".join(_FORMS)


class ScoringProtocol:
    """The protocol of ``/invocations``; ``max_rows`` is the largest number of rows in one request."""

    route = INVOCATIONS

    def __init__(self, model: Model, max_rows: int) -> None:
        self._model = model
        self._schema = model.schema.lenient()
        self._max_rows = max_rows
        self._readers: dict[str, BodyReader] = {json_codec.JSON: self._json, CSV: self._csv}
        if model.engine.uses_pandas and csv_parquet.can_read_parquet():
            self._readers[PARQUET] = self._parquet

    def owns(self, path: str) -> bool:
        """Return whether ``path`` is ``/invocations``, the protocol's only path with a request body."""
        return path == self.route

    def reader(self, content_type: bytes, _headers: Headers, _query: bytes) -> BodyReader:
        """Return the function that parses JSON or CSV in UTF-8, or Parquet if the engine loads pandas anyway.

        Raises:
            UnsupportedMediaType: the Content-Type is none of these.
        """
        media_type, *parameters = (part.strip() for part in content_type.decode("latin-1").lower().split(";"))
        for parameter in parameters:
            if parameter.replace('"', "") not in ("", "charset=utf-8", "charset=utf8"):
                raise UnsupportedMediaType(
                    f"the Content-Type may have the parameter charset=utf-8 only, got {parameter[:100]!r}"
                )
        read = self._readers.get(media_type)
        if read is None:
            raise UnsupportedMediaType(self._unsupported(media_type))
        return read

    def _unsupported(self, media_type: str) -> str:
        if media_type == PARQUET:
            reason = "Parquet is accepted only if the model's engine uses pandas and pyarrow is installed"
            return f"{reason}; send {' or '.join(self._readers)}"
        return f"the Content-Type must be one of {', '.join(self._readers)}, got {media_type[:100]!r}"

    def _json(self, body: bytes) -> PredictionRequest:
        document = json_codec.decode_with_nan(body)
        if not isinstance(document, dict):
            raise InvalidBody(f"{_EXPECTED_BODY}, got {show(document)}")
        forms = [form for form in _FORMS if form in document]
        if len(forms) != 1:
            raise InvalidBody(f"{_EXPECTED_BODY}, got {' and '.join(forms) or 'none of them'}")
        params = self._model.parameters.parse(document.get("params"), "#/params", Policy.LENIENT)
        return self._request(self._rows(forms[0], document[forms[0]]), params, f"#/{forms[0]}")

    def _request(
        self, rows: Sequence[Row], params: tuple[tuple[str, object], ...] = (), pointer: str = "#"
    ) -> PredictionRequest:
        return PredictionRequest(rows, encode, self._model.options(rows, params=params), pointer)

    def _rows(self, form: str, data: object) -> Sequence[Row]:
        """Return the rows of a body's form.

        ``dataframe_split`` and ``dataframe_records`` are the formats of pandas. ``instances`` and ``inputs`` are a list
        of records, an object of columns, or a list of values if the model has one column. Without a column signature
        they may also be a list of rows, each a list of values.
        """
        schema, pointer = self._schema, f"#/{form}"
        if form == "dataframe_split":
            return schema.parse_table(_split(data), self._max_rows)
        is_by_name = isinstance(data, list) and any(isinstance(item, dict) for item in data)
        if schema.is_nested and is_by_name and not any(schema.names[0] in item for item in _objects(data)):
            return schema.parse_values(data, pointer, self._max_rows)
        if form == "dataframe_records" or is_by_name:
            return schema.parse_records(data, pointer, self._max_rows)
        if isinstance(data, list) and (schema.takes_value_lists or schema.takes_bare_values):
            return schema.parse_values(data, pointer, self._max_rows)
        if isinstance(data, list) and len(schema.columns) == 1:
            data = {schema.names[0]: data}  # MLflow takes a list for the only tensor
        if not isinstance(data, dict):
            got = f"got {show(data)}; values without names cannot be assigned to columns"
            raise SchemaMismatch(f"{form} must be a list of records, or lists of values by column, {got}")
        return schema.parse_table(_columns(form, data), self._max_rows)

    def _csv(self, body: bytes) -> PredictionRequest:
        table = csv_parquet.read_csv(body, self._schema, self._max_rows)
        return self._request(self._schema.parse_table(table, self._max_rows))

    def _parquet(self, body: bytes) -> PredictionRequest:
        table = csv_parquet.read_parquet(body, self._schema, self._max_rows)
        return self._request(self._schema.parse_table(table, self._max_rows))

    def render_error(self, error: RequestError) -> ErrorAnswer:
        """Return MLflow's error document, plain text for a 415, or a problem document for a wrong method."""
        if isinstance(error, UnsupportedMediaType):
            return ErrorAnswer(error.status, b"text/plain; charset=utf-8", error.detail.encode())
        if isinstance(error, RoutingError):
            return problem(error)
        status = 400 if error.status == 422 else error.status
        return ErrorAnswer(status, json_codec.JSON.encode(), _encode_error(error))


def encode(prediction: Prediction) -> bytes:
    """Return the response: per row a label, a list of labels, or a record if the model names its output columns."""
    labels, columns = prediction.labels, prediction.columns
    if columns is not None:
        rows = labels if len(columns) > 1 else [[label] for label in labels]
        labels = [dict(zip(columns, row, strict=True)) for row in rows]
    return json_codec.encode({"predictions": labels})


async def ping(_request: Request) -> Response:
    """Answer 200 with an empty line: the server is running, and its model is loaded."""
    return Response(b"\n", media_type=json_codec.JSON)


async def mlflow_version(_request: Request) -> Response:
    """Answer with the version of the installed MLflow as plain text."""
    return Response(version("mlflow-skinny"), media_type=json_codec.JSON)


def _encode_error(error: RequestError) -> bytes:
    """Return an error in the form of ``MlflowException.serialize_as_json``.

    Source of SQLSTATE and error class: mlflow/error_classification.py.
    """
    if isinstance(error, SchemaMismatch):
        codes = ("INVALID_PARAMETER_VALUE", "KAM01", "SCHEMA_ENFORCEMENT_FAILED")
    elif error.status == 401:
        codes = ("UNAUTHENTICATED", "KAMC1", "CP_PERMISSION_DENIED")
    elif error.status == 503:
        codes = ("TEMPORARILY_UNAVAILABLE", "XXM00", "CLIENT_INTERNAL_ERROR")
    elif error.status == 500:
        codes = ("INTERNAL_ERROR", "XXM00", "CLIENT_INTERNAL_ERROR")
    else:
        codes = ("BAD_REQUEST", "KAM00", "INVALID_PARAMETER_VALUE")
    error_code, sqlstate, error_class = codes
    document = {"error_code": error_code, "message": error.detail, "sqlstate": sqlstate, "error_class": error_class}
    return json_codec.encode(document)


def _objects(items: object) -> list[dict[str, Any]]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _split(data: object) -> RowTable:
    """Return the rows of ``{"columns": [..], "data": [[..], ..], "index": [..]}``; default columns are 0, 1, .."""
    form = "dataframe_split"
    if not isinstance(data, dict) or not {"data"} <= set(data) <= {"columns", "data", "index"}:
        raise InvalidBody(f"{form} must be an object with data and, optionally, columns and index")
    rows, columns, index = data["data"], data.get("columns"), data.get("index")
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise InvalidBody(f"{form}.data must be a list of rows, each a list of values")
    names = [str(i) for i in range(max(map(len, rows), default=0))] if columns is None else _names(columns)
    for i, row in enumerate(rows):
        if len(row) != len(names):
            raise InvalidBody(f"{form}.data.{i} must have {len(names)} values, got {len(row)}")
    if index is not None and (not isinstance(index, list) or len(index) != len(rows)):
        raise InvalidBody(f"{form}.index must be a list of {len(rows)}, one for each row")
    return RowTable(names, rows, f"#/{form}/data", lambda i, j: f"#/{form}/data/{i}/{j}")


def _names(columns: object) -> list[str]:
    if not isinstance(columns, list):
        raise InvalidBody(f"dataframe_split.columns must be a list of names, got {show(columns)}")
    for i, name in enumerate(columns):
        if not isinstance(name, str | int | float):
            raise InvalidBody(f"dataframe_split.columns.{i} must be a name, got {show(name)}")
    names = [str(name) for name in columns]
    if duplicate := _first_duplicate(names):
        raise SchemaMismatch(f"dataframe_split.columns names {show(duplicate)} twice")
    return names


def _first_duplicate(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


def _columns(form: str, data: Mapping[str, object]) -> RowTable:
    """Return the rows of an object of columns by name, each a list of values, or a single value for a single row."""
    names = list(data)
    lists = [value if isinstance(value, list) else [value] for value in data.values()]
    if len({len(values) for values in lists}) > 1:
        raise SchemaMismatch(f"{form} must have equally many values in each column")
    rows = list(zip(*lists, strict=True))
    return RowTable(names, rows, f"#/{form}", lambda i, j: f"#/{form}/{names[j]}/{i}")
