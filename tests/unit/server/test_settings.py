"""The settings of a replica: their defaults, and the errors for invalid values."""

from __future__ import annotations

import dataclasses
import logging
import socket
from pathlib import Path

import pytest

from server.errors import SettingsError, StartError
from server.settings import ENGINES, LOG_LEVELS, ROOT, Settings
from server.system.cgroup import available_cpus
from tests.support.refusals import refusal

# Every variable, in the order of the settings, with a value that is not its default.
VALUES = {
    "MODEL_URI": "runs:/abc/model",
    "MODEL_NAME": "iris",
    "MLFLOW_TRACKING_URI": "http://registry:5000",
    "MLFLOW_REGISTRY_URI": "sqlite:///registry.db",
    "VAR_DIR": "/srv/forkcast",
    "WEB_CONCURRENCY": "3",
    "HOST": "10.0.0.1",
    "PORT": "80",
    "SOCKET": "/run/a.sock",
    "ENGINE": "pyfunc",
    "MAX_BATCH_ROWS": "64",
    "MAX_PENDING": "128",
    "MAX_BODY_BYTES": "4096",
    "KEEP_ALIVE": "5",
    "GRACEFUL_TIMEOUT": "6",
    "LOG_LEVEL": "debug",
    "REPLICA": "replica-1",
    "API_KEYS_FILE": "/run/secrets/keys",
}
# The variables that are whole numbers, each with its allowed range.
INTEGER_RANGES = {
    "WEB_CONCURRENCY": (1, 1024),
    "PORT": (1, 65535),
    "MAX_BATCH_ROWS": (1, 1_000_000),
    "MAX_PENDING": (1, 10_000_000),
    "MAX_BODY_BYTES": (1, 2**31),
    "KEEP_ALIVE": (1, 3600),
    "GRACEFUL_TIMEOUT": (1, 3600),
}


def setting_error(name: str, value: str) -> str:
    """Return the error message for an invalid value of a setting."""
    assert issubclass(SettingsError, StartError)
    return refusal(lambda: Settings.from_env({name: value}), SettingsError)


def test_empty_environment_gives_documented_defaults() -> None:
    """With no variable set, every setting has the default that docs/settings.md promises."""
    assert Settings.from_env({}) == Settings(
        model_uri="models:/covertype@champion",
        model_name=None,
        tracking_uri=f"sqlite:///{ROOT}/var/mlflow.db",
        registry_uri=None,
        var_dir=ROOT / "var",
        workers=available_cpus(),
        host="127.0.0.1",
        port=8000,
        socket=None,
        engine="auto",
        max_batch_rows=256,
        max_pending=4096,
        max_body_bytes=1_048_576,
        keep_alive=75,
        graceful_timeout=30,
        log_level="info",
        replica=socket.gethostname(),
        api_keys_file=None,
    )


def test_empty_value_counts_as_unset() -> None:
    """A variable with an empty value leaves the default of its setting."""
    assert Settings.from_env(dict.fromkeys(VALUES, "")) == Settings.from_env({})


def test_each_variable_sets_its_own_field() -> None:
    """Each variable sets its own field, and an unknown variable is ignored."""
    settings = Settings.from_env(VALUES | {"UNKNOWN": "x"})
    assert [str(value) for value in dataclasses.astuple(settings)] == list(VALUES.values())


def test_folders_follow_var_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry, the model copies and the compiled kernels are inside VAR_DIR, which is made absolute."""
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_env({"VAR_DIR": "data"})
    assert settings.var_dir == tmp_path / "data"
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/data/mlflow.db"
    assert settings.models_dir == tmp_path / "data" / "models"
    assert settings.kernels_dir == tmp_path / "data" / "models" / "kernels"


def test_settings_are_frozen() -> None:
    """Assigning to a setting raises an error."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings.from_env({}).port = 1  # type: ignore[misc]


@pytest.mark.parametrize("value", ["0", "-1", "+1", "1.5", "1e3", " 1", "1_000", "many", "٣", "99999999999"])
@pytest.mark.parametrize("name", INTEGER_RANGES)
def test_invalid_integer_is_named_with_range(name: str, value: str) -> None:
    """A value that is not a whole number in its range is rejected with its name, value and range."""
    low, high = INTEGER_RANGES[name]
    assert setting_error(name, value) == f"{name}={value!r}: expected a whole number from {low} to {high}"


@pytest.mark.parametrize("name", INTEGER_RANGES)
def test_bounds_of_integer_settings_are_inclusive(name: str) -> None:
    """A whole number may be the lowest or the highest of its range, and not one beyond it."""
    low, high = INTEGER_RANGES[name]
    for value in (low, high):
        assert value in dataclasses.astuple(Settings.from_env({name: str(value)}))
    assert f"{name}='{high + 1}'" in setting_error(name, str(high + 1))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ENGINE", "Forest", "one of auto, forest, onnx, sklearn, pyfunc"),
        ("ENGINE", "auto ", "one of auto, forest, onnx, sklearn, pyfunc"),
        ("LOG_LEVEL", "INFO", "one of debug, info, warning, error, critical"),
        ("LOG_LEVEL", "10", "one of debug, info, warning, error, critical"),
        ("REPLICA", "a/b", "a name of printable ASCII without spaces or slashes"),
        ("REPLICA", "a b", "a name of printable ASCII without spaces or slashes"),
        ("REPLICA", "a\r\nSet-Cookie:x", "a name of printable ASCII without spaces or slashes"),
        ("REPLICA", "réplica", "a name of printable ASCII without spaces or slashes"),
    ],
)
def test_invalid_choice_is_named_with_expectation(name: str, value: str, expected: str) -> None:
    """An invalid word is rejected in one line with its name, its value and what was expected."""
    assert setting_error(name, value) == f"{name}={value!r}: expected {expected}"


@pytest.mark.parametrize("name", ["iris", "My model ü", "a:b", "50%?#", "..a", "m" * 100, "模型"])
def test_model_name_may_be_any_path_segment(name: str) -> None:
    """A model's name may have any printable characters that a client can encode in a segment of a path."""
    assert Settings.from_env({"MODEL_NAME": name}).model_name == name


@pytest.mark.parametrize(
    "name", ["a/b", "/", "a\\b", ".", "..", " ", " a", "a ", "a\nb", "a\tb", "\x00", "a\u2028b", "\udcff", "m" * 101]
)
def test_model_name_that_is_no_path_segment_is_refused(name: str) -> None:
    """A name with a slash, a control character or a space at its end, or one that is too long, is refused."""
    assert setting_error("MODEL_NAME", name) == (
        f"MODEL_NAME={name!r}: expected a segment of a URL's path: at most 100 printable characters, without slash, "
        "backslash and spaces at the ends, and not . or .."
    )


@pytest.mark.parametrize(
    ("environ", "bind"),
    [
        ({}, "127.0.0.1:8000"),
        ({"HOST": "10.0.0.1", "PORT": "81"}, "10.0.0.1:81"),
        ({"HOST": "localhost"}, "localhost:8000"),
        ({"HOST": "::1"}, "[::1]:8000"),
        ({"SOCKET": "/run/replica.sock", "HOST": "::1", "PORT": "81"}, "unix:/run/replica.sock"),
    ],
)
def test_bind_prefers_socket_over_host_and_port(environ: dict[str, str], bind: str) -> None:
    """The address is the Unix socket if one is set, else host and port, with an IPv6 host in brackets."""
    assert Settings.from_env(environ).bind == bind


def test_every_engine_and_log_level_is_accepted() -> None:
    """Every documented engine and every level of the logging module is accepted."""
    assert [Settings.from_env({"ENGINE": name}).engine for name in ENGINES] == list(ENGINES)
    numbers = [Settings.from_env({"LOG_LEVEL": name}).log_level_number for name in LOG_LEVELS]
    assert numbers == [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL]
