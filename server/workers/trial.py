"""The trial of a loaded model: it predicts an example in a child process before any worker is forked.

A model that cannot predict is refused there, with the reason. A worker that fails to boot would halt the master, and
a prediction in the master could make every later fork hang (OpenMP), so the child is forked and thrown away.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import math
import os
import re
import select
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum, auto
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from server.errors import InvalidRows, ModelError, first_line
from server.inference.model import Model
from server.inference.rows import Prediction
from server.model_store.mlmodel import MLmodel
from server.model_store.versions import version_hint
from server.protocols import json_codec
from server.system import cgroup, memory_sizes

logger = logging.getLogger(__name__)

TRIAL_TIMEOUT_SECONDS = 60.0
_MAX_REASON_CHARACTERS = 300

# Messages of scikit-learn's ValueErrors that concern the columns. No other values would help.
_WRONG_COLUMNS = re.compile(r"X has \d+ features, but|feature names should match|columns are missing: ")

Inspect = Callable[[int], None]
Example = TypeVar("Example")


class FailureType(StrEnum):
    """The meaning of a failed try for the model."""

    INVALID_ROW = auto()  # The engine refuses the row as invalid, as it would for a client.
    REFUSED_VALUES = auto()  # The model refuses the values, judged by the type of its error.
    WRONG_COLUMNS = auto()  # The model was fitted on other columns than those of its signature.
    BROKEN = auto()  # Any other error of the model.
    ENDED = auto()  # The process crashed, or did not answer in time.


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed try, with its reason in one line."""

    type: FailureType
    reason: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Return the failure that an exception of the model stands for."""
        if isinstance(error, InvalidRows):
            # An engine may take any error for one about the row, if the model's columns have no types.
            cause = error.__cause__
            if cause is None or _failure_type(cause) is FailureType.REFUSED_VALUES:
                return cls(FailureType.INVALID_ROW, _shorten(str(error)))
            error = cause
        return cls(_failure_type(error), _shorten(f"{type(error).__name__}: {first_line(error)}"))


def _failure_type(error: BaseException) -> FailureType:
    if isinstance(error, ValueError) and _WRONG_COLUMNS.search(str(error)):
        return FailureType.WRONG_COLUMNS
    is_mlflow = any(base.__name__ == "MlflowException" for base in type(error).__mro__)
    # scikit-learn's NotFittedError is a ValueError as well as an AttributeError.
    is_refusal = isinstance(error, ValueError | LookupError) and not isinstance(error, AttributeError)
    return FailureType.REFUSED_VALUES if is_mlflow or is_refusal else FailureType.BROKEN


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a trial: the index of the row that was predicted, or the failure of each try.

    ``confidence`` is a confidence of the prediction that is not a probability, or None.
    """

    predicted: int | None = None
    failures: tuple[Failure, ...] = ()
    confidence: float | None = None


def tried(model: Model, folder: Path, timeout: float = TRIAL_TIMEOUT_SECONDS, inspect: Inspect | None = None) -> Model:
    """Return the model, whose files are in ``folder``, with the first of its examples that it predicts in a child.

    A model that refuses the values of all its examples is returned, too, with a warning. ``inspect`` is called with
    the process id of the child, which has tried the examples and is still alive.

    Raises:
        ModelError: the model cannot predict; the message has its own error.
    """
    examples = model.example_candidates or (model.example,)

    def predict(example: dict[str, object]) -> Prediction:
        return model.predict([model.row_of(example)])

    outcome = predict_in_child(predict, examples, timeout, inspect)
    subject = "rows made from its schema" if model.example_is_synthetic else "its example"
    if outcome.predicted is None:
        failure = _decisive_failure(outcome.failures, logged=not model.example_is_synthetic)
        if failure is not None:
            advice = _advice(model, folder, failure)
            raise ModelError("; ".join(filter(None, [f"the model cannot predict {subject}: {failure.reason}", advice])))
        reason = outcome.failures[0].reason
        logger.warning(
            "the model refuses %s as invalid input, so it is served without a tested example: %s", subject, reason
        )
    elif outcome.confidence is not None:
        hint = _version_hint(model, folder)
        text = f"the confidence of the model's prediction is {outcome.confidence:g}, which is not a probability"
        if hint:  # Trees that another version pickled are read without an error, and predict wrong numbers.
            raise ModelError(f"{text}; {hint}")
        logger.warning("%s; its predictions may be wrong", text)
    example = examples[outcome.predicted or 0]
    return replace(model, example=example, predicts_example=outcome.predicted is not None)


def _decisive_failure(failures: Iterable[Failure], *, logged: bool) -> Failure | None:
    """Return the failure for which the model is refused, or None.

    A logged example must be predicted, unless the engine answers it as it does a client's invalid row. Rows that were
    made up may be invalid for the model: then nothing is known about others.
    """
    excused = {FailureType.INVALID_ROW} if logged else {FailureType.INVALID_ROW, FailureType.REFUSED_VALUES}
    failures = tuple(failures)
    return None if any(failure.type in excused for failure in failures) else next(iter(failures), None)


def _advice(model: Model, folder: Path, failure: Failure) -> str | None:
    """Return what the user can do about a failure, or None."""
    if failure.type is FailureType.WRONG_COLUMNS:
        return "log it with the signature and the input_example of the columns that it was fitted on"
    if hint := _version_hint(model, folder):
        return hint
    if failure.type is FailureType.ENDED:
        return None
    if model.example_is_synthetic:
        return "if it predicts real rows, log it with one of them as input_example"
    return "log it again with an input_example that it predicts"


def _version_hint(model: Model, folder: Path) -> str | None:
    return version_hint(folder, MLmodel.read(folder).flavors, model.engine.name)


def predict_in_child(
    predict: Callable[[Example], Prediction],
    examples: Sequence[Example],
    timeout: float,
    inspect: Inspect | None = None,
) -> Outcome:
    """Predict the first of ``examples`` that does not fail, in a forked child, within ``timeout`` seconds in total.

    ``predict`` returns the prediction for one example. ``inspect`` is called with the process id of the child while it
    is alive, if it reports an outcome.
    """
    result_reader, result_writer = os.pipe()
    release_reader, release_writer = os.pipe()
    oom_kills = cgroup.oom_kills()
    with _all_signals_blocked() as mask:
        child = os.fork()
        if child == 0:
            os.close(result_reader)
            os.close(release_writer)
            _run_child(partial(_predict_first, predict, examples), timeout, mask, result_writer, release_reader)
    os.close(result_writer)
    os.close(release_reader)
    with os.fdopen(result_reader) as file:
        in_time = bool(select.select([file], [], [], timeout)[0])
        if not in_time:
            os.kill(child, signal.SIGKILL)
        line = file.readline() if in_time else ""
    if line and inspect is not None:
        inspect(child)
    os.close(release_writer)
    status = _wait(child)
    if line:
        return _parse_outcome(json.loads(line))
    reason = f"its process ended with {describe_exit(status)}"
    if not in_time:
        reason = f"it did not do so within {timeout:g} s"
    elif cgroup.oom_kills() > oom_kills:
        reason = f"its process was {memory_sizes.oom_message(cgroup.memory_limit(), None)}"
    return Outcome(failures=(Failure(FailureType.ENDED, reason),))


def describe_exit(code: int | None) -> str:
    """Name the exit status of a process, or the signal that killed it, whose number is then negative."""
    if code is None:
        return "an unknown status"
    if code >= 0:
        return f"status {code}"
    name = next((number.name for number in signal.Signals if number == -code), str(-code))  # real-time ones have none
    return f"signal {name}"


@contextlib.contextmanager
def _all_signals_blocked() -> Iterator[set[int]]:
    """Block all signals, so that no handler of the master runs in a child; give the mask that was in force."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield set(mask)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _wait(child: int) -> int | None:
    """Return the exit code of the child, or None if the master's handler of SIGCHLD has reaped it."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except ChildProcessError:
        return None


def _run_child(
    attempt: Callable[[], Outcome], timeout: float, mask: set[int], result_writer: int, release_reader: int
) -> None:
    """Write the outcome as one line of JSON, stay alive until the parent closes its pipe, and exit."""
    try:
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):  # a handler of the master
                signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        signal.alarm(math.ceil(timeout) + 1)  # The child must not outlive a parent that is killed.
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        with contextlib.suppress(OSError):  # If memory is short, this process is killed before any other.
            Path("/proc/self/oom_score_adj").write_text("1000")
        gc.freeze()  # A garbage collection would copy every page that the child shares with the master.
        outcome = json.dumps(asdict(attempt()))
        os.write(result_writer, f"{outcome}\n".encode())
        os.read(release_reader, 1)
    finally:
        os._exit(0)


def _predict_first(predict: Callable[[Example], Prediction], examples: Sequence[Example]) -> Outcome:
    failures = []
    for index, example in enumerate(examples):
        try:
            prediction = predict(example)
            _check(prediction)
        except BaseException as error:  # A model may raise anything, as SystemExit.
            logger.debug("the trial of the model failed", exc_info=True)
            failures.append(Failure.of(error))
        else:
            return Outcome(index, confidence=next(_improbable(prediction.confidences), None))
    return Outcome(failures=tuple(failures))


def _check(prediction: Prediction) -> None:
    """Check that the prediction for one row can be an answer.

    Raises:
        TypeError: it has another number of labels, or cannot be written as JSON.
    """
    if (count := len(prediction.labels)) != 1:
        raise TypeError(f"expected one result for one row, got {count}")
    json_codec.encode_predictions(prediction, "")


def _improbable(confidences: Any) -> Iterator[float]:
    """Yield the numbers in nested lists that are not probabilities."""
    if isinstance(confidences, list | tuple):
        for confidence in confidences:
            yield from _improbable(confidence)
    elif isinstance(confidences, float) and not -1e-6 <= confidences <= 1 + 1e-6:
        yield confidences


def _parse_outcome(document: dict[str, Any]) -> Outcome:
    return Outcome(
        **document
        | {
            "failures": tuple(
                Failure(FailureType(failure["type"]), failure["reason"]) for failure in document["failures"]
            )
        }
    )


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_REASON_CHARACTERS else f"{text[:_MAX_REASON_CHARACTERS]}..."
