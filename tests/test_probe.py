"""What the verbs learn of a service by asking it for a prediction of its own example."""

from __future__ import annotations

from typing import Any

import pytest

from deploy import probe
from deploy.errors import CommandError

NOTE = "the example is made up from the columns: the model was logged without input_example"


def service(monkeypatch: pytest.MonkeyPatch, status: int, **index: Any) -> None:
    """Let the address answer its index and then the prediction."""

    def ask(_address: str, method: str, _target: str, document: object = None) -> tuple[int, Any]:
        if method == "GET":
            return 200, {"example": {"POST /predict": {"x": 1}}, **index}
        assert document == {"x": 1}
        return status, {"detail": "city must be one of four"}

    monkeypatch.setattr(probe, "ask_address", ask)


def test_predicted_example(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that predicts its example needs no words, whoever made the example."""
    for index in ({}, {"note": NOTE}):
        service(monkeypatch, 200, **index)
        assert probe.predict_example("http://127.0.0.1:1") is None


@pytest.mark.parametrize("status", [422, 500])
def test_example_that_was_made_up(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """An example that was made up may be one that the model does not take: that is told, and is no failure."""
    service(monkeypatch, status, note=NOTE)
    told = probe.predict_example("http://127.0.0.1:1") or ""
    assert f"was answered with {status}: city must be one of four; log the model with input_example=" in told


@pytest.mark.parametrize(("status", "index"), [(500, {}), (422, {}), (503, {"note": NOTE}), (0, {"note": NOTE})])
def test_example_that_is_not_predicted(monkeypatch: pytest.MonkeyPatch, status: int, index: dict[str, str]) -> None:
    """A model that does not predict the example it was logged with, or does not answer at all, is a failure."""
    service(monkeypatch, status, **index)
    with pytest.raises(CommandError, match=f"the model's own example was answered with {status}"):
        probe.predict_example("http://127.0.0.1:1")
