"""The walk through a packed forest, compiled by Numba: ``python -m server.engines.kernel WIDTH`` prints machine code.

A process of its own, so that neither Numba nor the compiler stays in a replica's memory: the replica loads the printed
object file (:mod:`server.engines.native`). The function here takes pointers and counts and calls nothing, so the object
file needs nothing of Numba at run time.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

# The function's name in the object file; Numba's own holds every type of the signature.
SYMBOL = "forkcast_forest"
# LLVM's intrinsics that may come to nothing, or to calls of the C library.
_INTRINSICS = frozenset(
    {"llvm.assume", "llvm.smax.i64", "llvm.umax.i64", "llvm.memset.p0.i64", "llvm.memcpy.p0.p0.i64"}
)
# Its arguments: p an address, n a whole number, in the order of the function below.
ARGUMENTS = "pppnpnn" + "ppppnn" + "ppppp" + "pnnpppp"

# How a feature is made from a column x (see server.engines.packed.Feature).
COPY, SHIFT_DIVIDE, MULTIPLY_ADD, EQUALS, EQUALS_KNOWN = range(5)


def _walk(words: int) -> Callable[..., None]:  # noqa: C901
    """The kernel for nodes of 2 * ``words`` 32-bit words."""

    def forest(  # type: ignore[no-untyped-def]  # noqa: C901, PLR0912, PLR0913, PLR0917  (a kernel)
        thresholds, links, roots, trees, leaves, outputs, bits,
        kinds, columns, firsts, seconds, features, known,
        features_row, walking, tree_of, ended, sums,
        rows, count, width, best, top, totals, refused,
    ):  # fmt: skip
        mask = (1 << bits) - 1
        for row in range(count):
            hits = 0
            finite = 0.0
            for f in range(features):
                x = rows[row * width + columns[f]]
                kind = kinds[f]
                if kind == COPY:
                    value = x
                elif kind == SHIFT_DIVIDE:
                    value = (x - firsts[f]) / seconds[f]
                elif kind == MULTIPLY_ADD:
                    value = x * firsts[f] + seconds[f]
                elif x == firsts[f]:
                    value = 1.0
                    if kind == EQUALS_KNOWN:
                        hits += 1
                else:
                    value = 0.0
                features_row[f] = value
                finite += features_row[f] * 0.0  # infinity, which is what is too large for 32 bits, makes it NaN
            if hits != known or finite != 0.0:
                refused[0] = row
                return

            # All trees advance one level at a time over a shrinking list of those still walking, so that their cache
            # misses overlap.
            for tree in range(trees):
                walking[tree] = roots[tree]
                tree_of[tree] = tree
            left = trees
            while left > 0:
                kept = 0
                for i in range(left):
                    node = walking[i]
                    link = links[2 * node + 1]
                    feature = link & mask
                    target = link >> bits
                    if feature == mask:
                        ended[tree_of[i]] = target
                    else:
                        # The right child follows the left one.
                        walking[kept] = target + (features_row[feature] > thresholds[2 * words * node])
                        tree_of[kept] = tree_of[i]
                        kept += 1
                left = kept

            # In the order of the trees and in float64, as scikit-learn adds: the sums are the same bits.
            for output in range(outputs):
                sums[output] = 0.0
            for tree in range(trees):
                for output in range(outputs):
                    sums[output] += leaves[ended[tree] * outputs + output]
            winner = 0
            for output in range(outputs):
                sums[output] /= trees
                totals[row * outputs + output] = sums[output]
                if sums[output] > sums[winner]:
                    winner = output
            best[row] = winner
            top[row] = sums[winner]

    return forest


def compile_kernel(words: int) -> bytes:
    """An object file for this machine's processor, with one function, :data:`SYMBOL`."""
    # Imported here: a replica imports this module for its names, and never these.
    import llvmlite.binding as llvm  # noqa: PLC0415
    from numba import cfunc, types  # noqa: PLC0415

    from server.engines import native  # noqa: PLC0415

    array: Any = types.CPointer
    f4, f8, i8, u1 = (array(kind) for kind in (types.float32, types.float64, types.int64, types.uint8))
    links = array(types.uint32 if words == 1 else types.int64)  # what is mixed with an int64 stays whole
    number, nothing = types.int64, types.void
    signature: Any = nothing(
        f4, links, i8, number, f8, number, number,
        u1, i8, f8, f8, number, number,
        f4, i8, i8, i8, f8,
        f8, number, number, i8, f8, f8, i8,
    )  # fmt: skip
    make: Any = cfunc(signature, error_model="numpy")
    compiled = make(_walk(words))
    code = llvm.parse_assembly(compiled.inspect_llvm().replace(compiled.native_name, SYMBOL))
    code.verify()
    # The replica has none of Numba's helpers, which it calls to raise, or to allocate.
    if needed := {function.name for function in code.functions if function.is_declaration} - _INTRINSICS:
        raise RuntimeError(f"the kernel needs {', '.join(sorted(needed))}")
    return bytes(native.target_machine().emit_object(code))


def main() -> int:
    """Print the object file for nodes of the width that the one argument names."""
    if len(sys.argv) != 2 or not re.fullmatch("[12]", sys.argv[1]):
        print("usage: python -m server.engines.kernel {1|2}", file=sys.stderr)
        return 2
    sys.stdout.buffer.write(compile_kernel(int(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
