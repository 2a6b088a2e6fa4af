#!/bin/sh
# install.sh ARCHITECTURE LOCK..: install the packages of lock files into /packages, for an architecture as Docker names
# it. EXTRAS names further lock files in the folder of the first one, such as "onnx parquet".
set -eu

case $1 in
    amd64) platform=x86_64-manylinux_2_28 ;;
    arm64) platform=aarch64-manylinux_2_28 ;;
    *) echo "architecture $1: expected amd64 or arm64" >&2; exit 1 ;;
esac
shift
for extra in ${EXTRAS:-}; do set -- "$@" "${1%/*}/$extra.txt"; done
for lock; do set -- "$@" --requirement "$lock"; shift; done
# --only-binary: wheels need no compiler. The byte code of the building platform works on every architecture.
uv pip install --quiet --no-cache --only-binary :all: --python-platform "$platform" --python python3 \
    --compile-bytecode --target /packages "$@"
# Tests of the packages, and headers to compile against them, are not needed at run time.
find /packages -type d \( -name tests -o -name include \) -prune -exec rm -rf {} +
