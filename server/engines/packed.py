"""A forest packed into flat arrays, as it lies in the model's files and is mapped from them.

A node is two words: its threshold, a float32, and its link. The link's lowest ``bits`` bits are the feature that it
compares, the others its left child, whose right neighbour is the right child: nodes are numbered breadth first, tree
after tree. A link whose feature is all ones is a leaf's, and leads to a row of ``leaves``, which holds each distinct
distribution once. Words have 32 bits, or 64 where a link does not fit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Feature(NamedTuple):
    """How one feature of the trees is made from column ``column`` of the rows, with x for its value.

    ``kind`` is one of :mod:`server.engines.kernel`: x; (x - first) / second; x * first + second; or whether x equals
    ``first``, which, where the kind says "known", is so for exactly one feature of each such column.
    """

    kind: int
    column: int
    first: float = 0.0
    second: float = 0.0


@dataclass(frozen=True, slots=True)
class PackedForest:
    """Trees, and the way from a row to their features.

    ``nodes``: n x 2 uint32 or uint64; ``leaves``: m x outputs float64; ``roots``: the trees' first nodes. ``features``
    has one entry a feature of the trees, and may have more. The rows' columns are the schema's number columns, followed
    by its string columns, whose values are replaced by their codes in ``codes`` (-1 where they have none). ``classes``
    is None for a regressor.
    """

    nodes: NDArray[np.unsignedinteger[Any]]
    leaves: NDArray[np.float64]
    roots: NDArray[np.int64]
    bits: int
    features: tuple[Feature, ...]
    codes: tuple[Mapping[str, int], ...]
    classes: tuple[Any, ...] | None

    @property
    def words(self) -> int:
        """The 32-bit words of a threshold, and of a link."""
        return self.nodes.dtype.itemsize // 4

    @property
    def nbytes(self) -> int:
        """What its arrays take."""
        return self.nodes.nbytes + self.leaves.nbytes + self.roots.nbytes

    def save(self, folder: Path) -> None:
        """Write it into ``folder``, which must not exist."""
        folder.mkdir()
        np.save(folder / "nodes.npy", self.nodes)
        np.save(folder / "leaves.npy", self.leaves)
        np.save(folder / "roots.npy", self.roots)
        rest = {"bits": self.bits, "features": self.features, "codes": self.codes, "classes": self.classes}
        (folder / "forest.json").write_text(json.dumps(rest))

    @classmethod
    def load(cls, folder: Path) -> PackedForest:
        """The inverse of :meth:`save`; nodes and leaves stay in the file, whose pages all replicas of a host share.

        Raises:
            OSError, EOFError, ValueError, KeyError, TypeError: a file is missing or is not what was saved.
        """
        rest = json.loads((folder / "forest.json").read_bytes())
        return cls(
            nodes=np.load(folder / "nodes.npy", mmap_mode="r"),
            leaves=np.load(folder / "leaves.npy", mmap_mode="r"),
            roots=np.load(folder / "roots.npy"),
            bits=int(rest["bits"]),
            features=tuple(Feature(*feature) for feature in rest["features"]),
            codes=tuple(rest["codes"]),
            classes=None if rest["classes"] is None else tuple(rest["classes"]),
        )
