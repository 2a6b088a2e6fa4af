"""The folder of a small decision tree in MLflow's form, written without importing MLflow."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import yaml
from sklearn.tree import DecisionTreeClassifier

SIGNATURE = {"inputs": '[{"type": "double", "name": "x", "required": true}]'}


def write_model(folder: Path, **changes: Any) -> Path:
    """Write the folder of a model that tells 0 from 1, with changed fields in its MLmodel file; return the folder."""
    folder.mkdir()
    tree = DecisionTreeClassifier().fit([[0.0], [1.0]], ["low", "high"])
    (folder / "model.pkl").write_bytes(pickle.dumps(tree))
    flavor = {"pickled_model": "model.pkl", "serialization_format": "pickle"}
    document = {"flavors": {"sklearn": flavor}, "signature": SIGNATURE, **changes}
    (folder / "MLmodel").write_text(yaml.safe_dump(document))
    return folder
