"""Tests of the comparison of a model's package versions with those of this server."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from server.model_store.versions import version_hint

SKLEARN, NUMPY = version("scikit-learn"), version("numpy")


def hint(
    folder: Path, requirements: str | None = None, engine: str = "sklearn", **flavors: dict[str, Any]
) -> str | None:
    if requirements is not None:
        (folder / "requirements.txt").write_text(requirements)
    return version_hint(folder, flavors, engine)


def test_one_difference_names_both_versions(tmp_path: Path) -> None:
    """A single package that differs is named with both versions and what to do."""
    assert hint(tmp_path, sklearn={"sklearn_version": "1.3.2"}) == (
        f"it was logged with scikit-learn 1.3.2, and this server has {SKLEARN}: log it again with this server's "
        "version, or install the model's version where the server runs"
    )


def test_several_differences_are_listed(tmp_path: Path) -> None:
    """Each package that differs is listed; other packages, and pins with other operators, are not."""
    text = (
        "scikit_learn==0.22.1\n# a comment\nnumpy==1.17.5 ; python_version > '3'\nscipy>=1\nrequests==1.0\n--index x\n"
    )
    found = hint(tmp_path, text, python_function={"python_version": "3.6.1"})
    assert str(found).startswith(
        "it was logged with scikit-learn 0.22.1, numpy 1.17.5 and Python 3.6.1, and this server has "
        f"scikit-learn {SKLEARN}, numpy {NUMPY} and Python {platform.python_version()}: "
    )


@pytest.mark.parametrize("patch", ["", "0", "99"])
def test_equal_minor_versions_are_no_difference(tmp_path: Path, patch: str) -> None:
    """Patch releases of a package count as the same version."""
    minor = ".".join(SKLEARN.split(".")[:2])
    assert hint(tmp_path, f"scikit-learn=={minor}.{patch}") is None


def test_mlflow_matters_only_to_its_own_engine(tmp_path: Path) -> None:
    """MLflow's version is compared only if MLflow loads the model, also where only mlflow-skinny is installed."""
    assert hint(tmp_path, "mlflow==1.0.0") is None
    assert "mlflow 1.0.0, and this server has " in str(hint(tmp_path, engine="pyfunc"))


def test_compiled_engine_has_no_hint(tmp_path: Path) -> None:
    """A compiled engine uses none of the packages."""
    assert hint(tmp_path, "scikit-learn==0.22.1", engine="forest") is None


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"skops==0.1\n"])
def test_unreadable_or_unrelated_pins_are_no_difference(tmp_path: Path, content: bytes | None) -> None:
    """A model whose requirements are missing or unreadable has no hint; nor has one of a package not installed."""
    if content == b"skops==0.1\n":
        content = b"skops==" + version("skops").encode()
    if content is not None:
        (tmp_path / "requirements.txt").write_bytes(content)
    assert hint(tmp_path) is None
