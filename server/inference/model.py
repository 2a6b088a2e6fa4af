"""A model ready to serve: its name and version, its input schema, and the engine that computes predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from server.inference.parameters import NO_PARAMETERS, Parameters
from server.inference.rows import NO_OPTIONS, Options, Prediction, Row, Rows
from server.inference.schema import Form, InputSchema


class Engine(Protocol):
    """A loaded model that predicts. It is created in the master and called only in workers, by one thread at a time.

    ``uses_pandas`` is whether it computes on DataFrames, and so has pandas in memory. ``schema`` is that of the model's
    signature or, without one, what the engine knows of the model's input.
    """

    name: str
    uses_pandas: bool
    schema: InputSchema

    def predict(self, rows: Rows, options: Options = NO_OPTIONS) -> Prediction:
        """Return a label for each row, and its confidence if the model has probabilities.

        Raises:
            InvalidRows: the model does not accept a value of the rows.
        """
        ...


@runtime_checkable
class KnowsValues(Protocol):
    """An engine that knows values of some columns, from which an example is made."""

    def known_values(self) -> Mapping[str, object]:
        """Return a value by column, such as a category that the model was fitted on."""
        ...


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model with its engine and its metadata.

    ``name`` is what clients call it, and ``registered_name`` its name in the registry, or None if it has none.
    ``example`` is a row, by name. If the model has no example, one is made up from its columns
    (``example_is_synthetic``), which the model may refuse, as with a category that it does not know.
    ``example_candidates`` are all rows to try as the example, the most likely first. ``predicts_example`` is False if
    the model refused all of them in the trial before the fork. ``stale`` and ``needs`` are those of
    :class:`server.model_store.copies.Copy`.
    """

    name: str
    version: str
    uri: str
    digest: str
    trained_on: str | None
    stale: str | None
    schema: InputSchema
    engine: Engine
    example: dict[str, object]
    example_candidates: tuple[dict[str, object], ...] = ()
    needs: int | None = None
    example_is_synthetic: bool = False
    predicts_example: bool = True
    registered_name: str | None = None
    parameters: Parameters = NO_PARAMETERS

    @property
    def source(self) -> str:
        """The place that this model was loaded from: a text for `/health`."""
        if self.stale is not None:
            return "the last good copy"
        return "the registry" if "models:/" in self.uri else "MODEL_URI"

    @property
    def example_row(self) -> Row:
        """The example as a row, for the warm-up."""
        return self.row_of(self.example)

    def row_of(self, example: dict[str, object]) -> Row:
        """Return an example as a row."""
        if self.schema.form is Form.RECORDS:
            return [*example.values()]
        return self.schema.parse(example, 1).values[0]

    @property
    def example_request(self) -> dict[str, object]:
        """The example as a body for ``/predict``: by name or, if the columns are only positions, as a list."""
        if self.schema.form is Form.RECORDS:
            row = self.example["row"]
            return row if isinstance(row, dict) else {"instances": [row]}
        if not self.schema.is_positional:
            return self.example
        values = [self.example.get(name) for name in self.schema.names]
        if not self.schema.is_nested:
            return {"features": values}
        return {"features": values[0]}

    def options(
        self, rows: Sequence[Row], *, probabilities: bool = False, params: tuple[tuple[str, object], ...] = ()
    ) -> Options | None:
        """Return the options of a request, or None if it shares its predict call with any other without options."""
        value_kinds = () if self.schema.is_typed else self.schema.value_kinds(rows)
        return Options(probabilities, params, value_kinds) if probabilities or params or value_kinds else None

    def predict(self, rows: Sequence[Row], options: Options | None = None) -> Prediction:
        """Return the prediction for valid rows, which become one array for one call of the engine."""
        if options is None:
            return self.engine.predict(self.schema.to_rows(rows))
        return self.engine.predict(self.schema.to_rows(rows), options)
