"""A forest packed into flat arrays, which are stored in the model's files and mapped from them.

A node has two fields: its threshold, a float32, and its link. The lowest ``bits`` bits of the link are the index of the
feature that the node compares; the others are the index of its left child, and the right child follows it. Nodes are
numbered breadth first, tree after tree. If all bits of the feature are ones, the node is a leaf, and the rest of its
link is the index of a row of ``leaves``, which has each distinct distribution once. A field has 32 bits, or 64 if some
link needs more than 32.
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
    """The formula for one feature of the trees from the value x of the column with the index ``column``.

    ``operation`` is one of :mod:`server.engines.kernel`: COPY is x, SHIFT_DIVIDE is (x - first) / second, MULTIPLY_ADD
    is x * first + second, and EQUALS is whether x equals ``first``. EQUALS_KNOWN is the same for a column whose values
    must equal ``first`` of exactly one of its features; a row with another value is refused.
    """

    operation: int
    column: int
    first: float = 0.0
    second: float = 0.0


@dataclass(frozen=True, slots=True)
class PackedForest:
    """Trees, and the formulas that make their features from a row.

    ``nodes`` is n x 2 uint32 or uint64, ``leaves`` m x outputs float64, and ``roots`` the index of each tree's first
    node. ``features`` has a formula for each feature of the trees, and may have more. A row's columns are the number
    columns of the schema, followed by all others. ``codes`` has an entry for each of those: the code that replaces each
    category, with -1 for any other value, or None if the value is a number. ``classes`` is None for a regressor.
    """

    nodes: NDArray[np.unsignedinteger[Any]]
    leaves: NDArray[np.float64]
    roots: NDArray[np.int64]
    bits: int
    features: tuple[Feature, ...]
    codes: tuple[Mapping[str, int] | None, ...]
    classes: tuple[Any, ...] | None

    @property
    def field_words(self) -> int:
        """The number of 32-bit words of a node's field: 1 or 2."""
        return self.nodes.dtype.itemsize // 4

    @property
    def nbytes(self) -> int:
        """The size of the arrays (bytes)."""
        return self.nodes.nbytes + self.leaves.nbytes + self.roots.nbytes

    def save(self, folder: Path) -> None:
        """Write the forest into a new folder.

        Raises:
            FileExistsError: the folder exists.
        """
        folder.mkdir()
        np.save(folder / "nodes.npy", self.nodes)
        np.save(folder / "leaves.npy", self.leaves)
        np.save(folder / "roots.npy", self.roots)
        header = {"bits": self.bits, "features": self.features, "codes": self.codes, "classes": self.classes}
        (folder / "forest.json").write_text(json.dumps(header))

    @classmethod
    def load(cls, folder: Path) -> PackedForest:
        """Load a saved forest. Nodes and leaves are mapped from their files, whose pages all replicas of a host share.

        Raises:
            OSError, EOFError, ValueError, KeyError, TypeError: a file is missing or invalid.
        """
        header = json.loads((folder / "forest.json").read_bytes())
        return cls(
            nodes=np.load(folder / "nodes.npy", mmap_mode="r"),
            leaves=np.load(folder / "leaves.npy", mmap_mode="r"),
            roots=np.load(folder / "roots.npy"),
            bits=int(header["bits"]),
            features=tuple(Feature(*feature) for feature in header["features"]),
            codes=tuple(header["codes"]),
            classes=None if header["classes"] is None else tuple(header["classes"]),
        )
