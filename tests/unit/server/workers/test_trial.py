"""Tests of the trial prediction in a forked child."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sklearn.exceptions import NotFittedError

from server.errors import InvalidRows, ModelError
from server.inference.rows import Prediction, Rows
from server.system import cgroup
from server.workers.trial import Failure, FailureType, Outcome, predict_in_child, tried
from tests.support.models.served_models import FakeEngine, served_model
from tests.support.models.tree_folder import write_model

TIMEOUT_SECONDS = 30.0  # a test that hangs fails after this time


class MlflowException(Exception):
    """A class with the name of MLflow's exception, which the trial recognizes without importing MLflow."""


def raising(error: BaseException) -> Callable[[Any], Prediction]:
    """Return a model that raises an error."""

    def predict(_rows: Any) -> Prediction:
        raise error

    return predict


def attempt(predict: Callable[[Any], Any], examples: Sequence[Any] = (1.0,), **options: Any) -> Outcome:
    return predict_in_child(predict, examples, **{"timeout": TIMEOUT_SECONDS, **options})


def ended(reason: str) -> Outcome:
    return Outcome(failures=(Failure(FailureType.ENDED, reason),))


def test_prediction_happens_in_another_process(tmp_path: Path) -> None:
    """The model predicts in a child process, which is gone afterwards."""

    def predict(_example: object) -> Prediction:
        (tmp_path / "pid").write_text(str(os.getpid()))
        return Prediction([0], [0.5])

    assert attempt(predict) == Outcome(predicted=0)
    pid = int((tmp_path / "pid").read_text())
    assert pid != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_first_example_that_is_predicted_is_reported() -> None:
    """The outcome has the index of the first example that does not fail."""
    labels = {2: "two", 3: "three"}
    assert attempt(lambda example: Prediction([labels[example]], None), [1, 2, 3]) == Outcome(predicted=1)


@pytest.mark.parametrize(
    ("error", "type_", "reason"),
    [
        (InvalidRows("the model does not accept it"), FailureType.INVALID_ROW, "the model does not accept it"),
        (ValueError("bad\nvalue"), FailureType.REFUSED_VALUES, "ValueError: bad"),
        (KeyError("colour"), FailureType.REFUSED_VALUES, "KeyError: 'colour'"),
        (MlflowException("schema"), FailureType.REFUSED_VALUES, "MlflowException: schema"),
        (ValueError("X has 1 features, but it expects 2"), FailureType.WRONG_COLUMNS, "ValueError: X has 1 features, "),
        (AttributeError("no transform"), FailureType.BROKEN, "AttributeError: no transform"),
        (NotFittedError("not fitted"), FailureType.BROKEN, "NotFittedError: not fitted"),
        (TypeError("code() argument 13"), FailureType.BROKEN, "TypeError: code() argument 13"),
        (ImportError("No module named 'x'"), FailureType.BROKEN, "ImportError: No module named 'x'"),
        (SystemExit(3), FailureType.BROKEN, "SystemExit: 3"),
        (RuntimeError("x" * 1000), FailureType.BROKEN, "RuntimeError: xxx"),
    ],
)
def test_error_of_the_model_is_reported(error: BaseException, type_: FailureType, reason: str) -> None:
    """An error of the model is reported in one short line, with the type of failure that it is."""
    (failure,) = attempt(raising(error)).failures
    assert failure.type == type_
    assert failure.reason.startswith(reason)
    assert len(failure.reason) < 310


def test_crash_is_reported_with_its_signal_or_status() -> None:
    """A model that crashes its process is a failure with the signal or the status."""

    def crash(_rows: Any) -> None:
        faulthandler.disable()  # pytest's handler would write the stack to standard error.
        os.kill(os.getpid(), signal.SIGSEGV)

    assert attempt(crash) == ended("its process ended with signal SIGSEGV")
    assert attempt(lambda _rows: os._exit(3)) == ended("its process ended with status 3")


def test_hang_is_ended_at_the_timeout() -> None:
    """A model that does not answer within the timeout is killed, and reported."""
    assert attempt(lambda _rows: time.sleep(600), timeout=0.1) == ended("it did not do so within 0.1 s")


def test_reaped_child_is_tolerated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that the master's handler of SIGCHLD has reaped first is no error."""
    waitpid = os.waitpid

    def reaped_before(pid: int, options: int) -> tuple[int, int]:
        waitpid(pid, options)
        return waitpid(pid, options)

    monkeypatch.setattr(os, "waitpid", reaped_before)
    assert attempt(lambda _example: Prediction([0], None)) == Outcome(predicted=0)
    assert attempt(lambda _rows: os._exit(3)) == ended("its process ended with an unknown status")


def test_signal_handlers_of_the_master_do_not_run_in_the_child(tmp_path: Path) -> None:
    """A signal ends the child, and no handler of the master runs in it; the master's mask is as before."""
    previous = signal.signal(signal.SIGTERM, lambda *_: (tmp_path / "handled").touch())
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        outcome = attempt(lambda _rows: os.kill(os.getpid(), signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert outcome == ended("its process ended with signal SIGTERM")
    assert not (tmp_path / "handled").exists()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask


def test_living_child_can_be_inspected() -> None:
    """A child that reported an outcome is alive while it is inspected; one that crashed is not inspected."""
    names: list[str] = []

    def inspect(pid: int) -> None:
        names.append(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0])

    attempt(lambda _example: Prediction([0], None), inspect=inspect)
    attempt(lambda _rows: os._exit(9), inspect=inspect)
    assert len(names) == 1
    assert names[0] in "SR"


@pytest.mark.parametrize(
    ("prediction", "reason"),
    [
        (Prediction([1, 2], None), "TypeError: expected one result for one row, got 2"),
        (Prediction([object()], None), "Type is not JSON serializable: object"),
    ],
)
def test_prediction_that_is_no_answer_is_a_failure(prediction: Prediction, reason: str) -> None:
    """A prediction with another number of results than rows, or that JSON does not have, is a failure."""
    (failure,) = attempt(lambda _rows: prediction).failures
    assert failure.type == FailureType.BROKEN
    assert reason in failure.reason


@pytest.mark.parametrize(
    ("confidences", "outlier"),
    [([46.05], 46.05), ([[0.5, -1.0]], -1.0), ([1.0000001], None), ([None], None), (None, None)],
)
def test_confidence_that_is_no_probability_is_reported(confidences: list[Any] | None, outlier: float | None) -> None:
    """A confidence outside 0 to 1 is reported."""
    assert attempt(lambda _rows: Prediction([1], confidences)) == Outcome(0, confidence=outlier)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a model that was logged with older packages."""
    folder = write_model(tmp_path / "tree")
    (folder / "requirements.txt").write_text("scikit-learn==0.22.1\nnumpy==1.17.5\n")
    return folder


def model_of(predict: Callable[[Any], Any], *, logged: bool, engine: str = "sklearn") -> Any:
    fake = FakeEngine(predict)
    fake.name = engine
    return served_model(fake, example_is_synthetic=not logged)


def zeros(rows: Rows) -> Prediction:
    return Prediction([0] * len(rows), None)


def test_model_that_predicts_is_returned(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model that predicts its example is returned as it was, and nothing is logged."""
    model = model_of(zeros, logged=True)
    assert tried(model, folder) == model
    assert caplog.messages == []


def test_example_that_is_predicted_becomes_the_models(folder: Path) -> None:
    """The first made-up row that the model predicts becomes its example."""

    def predict(rows: Rows) -> Prediction:
        if rows.numbers[0, 0] < 2000:
            raise TypeError("low")
        return zeros(rows)

    examples = tuple({"elevation": value, "slope": 1.0} for value in (1900, 2100, 2200))
    model = replace(model_of(predict, logged=False), example=examples[0], example_candidates=examples)
    tested = tried(model, folder)
    assert tested.predicts_example
    assert tested.example == examples[1]


def test_one_refusal_among_errors_is_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model that refuses one made-up row as invalid is served, since its other errors may be those of wrong rows."""

    def predict(rows: Rows) -> Prediction:
        raise TypeError("number") if rows.numbers[0, 0] < 2000 else ValueError("unknown")

    examples = tuple({"elevation": value, "slope": 1.0} for value in (1900, 2100))
    model = replace(model_of(predict, logged=False), example=examples[0], example_candidates=examples)
    assert not tried(model, folder).predicts_example
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("logged", [True, False])
def test_broken_model_is_refused_with_both_versions(folder: Path, logged: bool) -> None:
    """A broken model is refused with its error, the versions that differ and what to do, in one line."""
    with pytest.raises(ModelError) as caught:
        tried(model_of(raising(AttributeError("no transform")), logged=logged), folder)
    subject = "its example" if logged else "rows made from its schema"
    message = str(caught.value)
    assert message.startswith(
        f"the model cannot predict {subject}: AttributeError: no transform; "
        "it was logged with scikit-learn 0.22.1 and numpy 1.17.5, and this server has scikit-learn "
    )
    assert "log it again with this server's versions" in message
    assert "\n" not in message


def test_compiled_model_is_refused_without_versions(folder: Path) -> None:
    """The versions of the packages that a compiled model does not use are not in its error."""
    with pytest.raises(
        ModelError, match=r"^the model cannot predict its example: TypeError: no; log it again with an "
    ):
        tried(model_of(raising(TypeError("no")), logged=True, engine="forest"), folder)


def test_hanging_model_is_refused(tmp_path: Path) -> None:
    """A model that does not answer in time is refused."""
    message = "^the model cannot predict its example: it did not do so within 0.1 s$"
    with pytest.raises(ModelError, match=message):
        tried(model_of(lambda _rows: time.sleep(600), logged=True), write_model(tmp_path / "tree"), timeout=0.1)


@pytest.mark.parametrize(
    ("error", "logged"),
    [(InvalidRows("NaN"), True), (InvalidRows("NaN"), False), (ValueError("unknown colour"), False)],
)
def test_refused_values_are_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture, error: Exception, logged: bool
) -> None:
    """A model that refuses the values of a row as invalid is served, with one warning, and without a warm-up."""
    model = tried(model_of(raising(error), logged=logged), folder)
    assert not model.predicts_example
    (warning,) = caplog.messages
    assert str(error) in warning


def test_logged_example_that_the_model_refuses_is_refused(folder: Path) -> None:
    """An example that a model was logged with must be predicted: its ValueError prevents the start."""
    with pytest.raises(ModelError, match=r"^the model cannot predict its example: ValueError: unknown colour; "):
        tried(model_of(raising(ValueError("unknown colour")), logged=True), folder)


def test_wrong_columns_are_refused_without_versions(folder: Path) -> None:
    """A model that was fitted on other columns than its signature's is refused, also for a row that was made up."""
    with pytest.raises(ModelError, match=r": ValueError: X has 1 features, but .*; log it with the signature and "):
        tried(model_of(raising(ValueError("X has 1 features, but it expects 2")), logged=False), folder)


def test_improbable_confidence_of_another_version_is_refused(folder: Path) -> None:
    """A confidence that is no probability prevents the start, if the model was logged with other versions."""
    with pytest.raises(ModelError, match=r"is 46\.05, which is not a probability; it was logged with scikit"):
        tried(model_of(lambda rows: Prediction([1] * len(rows), [46.05]), logged=True), folder)


def test_improbable_confidence_of_the_same_version_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that says nothing of other versions may have confidences that are no probabilities."""
    (tmp_path / "MLmodel").write_text("flavors: {sklearn: {}}")
    model = tried(model_of(lambda rows: Prediction([1] * len(rows), [46.05]), logged=True), tmp_path)
    assert model.predicts_example
    (warning,) = caplog.messages
    assert "is 46.05, which is not a probability; its predictions may be wrong" in warning


def test_out_of_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that the kernel killed for lack of memory is reported as that."""
    counts = iter((0, 1))
    monkeypatch.setattr(cgroup, "oom_kills", lambda: next(counts))
    monkeypatch.setattr(cgroup, "memory_limit", lambda: 64 << 20)
    assert attempt(lambda _rows: os.kill(os.getpid(), signal.SIGKILL)) == ended(
        "its process was killed: out of memory at 64M"
    )
