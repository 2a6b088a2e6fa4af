"""The kernel that evaluates a packed forest, compiled by Numba.

``python -m server.engines.kernel WIDTH`` prints its object file. It runs in a process of its own, so that neither Numba
nor the compiler stays in a replica's memory: the replica loads the object file (:mod:`server.engines.native`). The
kernel takes pointers and counts and calls no functions, so that it does not need Numba at run time.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

# The function's name in the object file, instead of Numba's mangled name.
SYMBOL = "forkcast_forest"
# LLVM's intrinsics that compile to no call, or to calls of the C library.
_INTRINSICS = frozenset(
    {"llvm.assume", "llvm.smax.i64", "llvm.umax.i64", "llvm.memset.p0.i64", "llvm.memcpy.p0.p0.i64"}
)
# The types of its arguments, in the order of the function below: p is an address, n is a whole number.
ARGUMENTS = "pppnpnn" + "ppppnn" + "ppppp" + "pnnpppp"

# The operations that make a feature from a column (see server.engines.packed.Feature).
COPY, SHIFT_DIVIDE, MULTIPLY_ADD, EQUALS, EQUALS_KNOWN = range(5)


def _kernel_function(field_words: int) -> Callable[..., None]:  # noqa: C901
    """Return the kernel, as a Python function, for nodes of 2 * ``field_words`` 32-bit words."""

    def forest(  # type: ignore[no-untyped-def]  # noqa: C901, PLR0912, PLR0913, PLR0917  (a kernel)
        thresholds, links, roots, trees, leaves, outputs, bits,
        operations, columns, firsts, seconds, features, known,
        feature_values, node_of, tree_of, leaf_of, sums,
        rows, count, width, best, top, totals, refused,
    ):  # fmt: skip
        mask = (1 << bits) - 1
        for row in range(count):
            known_hits = 0
            finite = 0.0
            for f in range(features):
                x = rows[row * width + columns[f]]
                operation = operations[f]
                if operation == COPY:
                    value = x
                elif operation == SHIFT_DIVIDE:
                    value = (x - firsts[f]) / seconds[f]
                elif operation == MULTIPLY_ADD:
                    value = x * firsts[f] + seconds[f]
                elif x == firsts[f]:
                    value = 1.0
                    if operation == EQUALS_KNOWN:
                        known_hits += 1
                else:
                    value = 0.0
                feature_values[f] = value
                finite += feature_values[f] * 0.0  # NaN if a value is too large for float32
            if known_hits != known or finite != 0.0:
                refused[0] = row
                return

            # All trees advance by one level at a time, over a shrinking list of those that have not reached a leaf, so
            # that their cache misses overlap.
            for tree in range(trees):
                node_of[tree] = roots[tree]
                tree_of[tree] = tree
            active = trees
            while active > 0:
                still_active = 0
                for i in range(active):
                    node = node_of[i]
                    link = links[2 * node + 1]
                    feature = link & mask
                    target = link >> bits
                    if feature == mask:
                        leaf_of[tree_of[i]] = target
                    else:
                        # The right child follows the left one.
                        node_of[still_active] = target + (feature_values[feature] > thresholds[2 * field_words * node])
                        tree_of[still_active] = tree_of[i]
                        still_active += 1
                active = still_active

            # Added in the order of the trees and in float64, as in scikit-learn, so that the sums are bit-identical.
            for output in range(outputs):
                sums[output] = 0.0
            for tree in range(trees):
                for output in range(outputs):
                    sums[output] += leaves[leaf_of[tree] * outputs + output]
            winner = 0
            for output in range(outputs):
                sums[output] /= trees
                totals[row * outputs + output] = sums[output]
                if sums[output] > sums[winner]:
                    winner = output
            best[row] = winner
            top[row] = sums[winner]

    return forest


def compile_kernel(field_words: int) -> bytes:
    """Return an object file for this machine's processor with one function, :data:`SYMBOL`."""
    # Imported here, because a replica imports this module for its constants, and does not need the compiler.
    import llvmlite.binding as llvm  # noqa: PLC0415
    from numba import cfunc, types  # noqa: PLC0415

    from server.engines import native  # noqa: PLC0415

    array: Any = types.CPointer
    f4, f8, i8, u1 = map(array, (types.float32, types.float64, types.int64, types.uint8))
    # int64 for 64-bit links, because Numba makes a mixture of uint64 and int64 a float.
    links = array(types.uint32 if field_words == 1 else types.int64)
    number = types.int64
    signature: Any = types.void(
        f4, links, i8, number, f8, number, number,
        u1, i8, f8, f8, number, number,
        f4, i8, i8, i8, f8,
        f8, number, number, i8, f8, f8, i8,
    )  # fmt: skip
    compile_function: Any = cfunc(signature, error_model="numpy")
    compiled = compile_function(_kernel_function(field_words))
    code = llvm.parse_assembly(compiled.inspect_llvm().replace(compiled.native_name, SYMBOL))
    code.verify()
    # Numba's helper functions, which raise exceptions or allocate memory, do not exist in a replica.
    if required := {function.name for function in code.functions if function.is_declaration} - _INTRINSICS:
        raise RuntimeError(f"the kernel must not call other functions, but calls {', '.join(sorted(required))}")
    return bytes(native.target_machine().emit_object(code))


def main() -> int:
    """Print the object file for nodes of the width in the only argument."""
    if len(sys.argv) != 2 or not re.fullmatch("[12]", sys.argv[1]):
        print("usage: python -m server.engines.kernel {1|2}", file=sys.stderr)
        return 2
    sys.stdout.buffer.write(compile_kernel(int(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
