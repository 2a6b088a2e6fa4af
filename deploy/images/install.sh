#!/bin/sh
# install.sh ARCHITECTURE LOCK..: the packages of lock files into /packages, for Docker's name of an architecture. EXTRAS
# lists further lock files beside the first by their names: "onnx parquet".
set -eu

case $1 in
    amd64) platform=x86_64-manylinux_2_28 ;;
    arm64) platform=aarch64-manylinux_2_28 ;;
    *) echo "architecture $1: expected amd64 or arm64" >&2; exit 1 ;;
esac
shift
for extra in ${EXTRAS:-}; do set -- "$@" "${1%/*}/$extra.txt"; done
for lock; do set -- "$@" --requirement "$lock"; shift; done
# --only-binary: nothing is compiled, so no compiler is needed. Byte code does not depend on the architecture.
uv pip install --quiet --no-cache --only-binary :all: --python-platform "$platform" --python python3 \
    --compile-bytecode --target /packages "$@"
# What is needed only to test a package, or to compile against it.
find /packages -type d \( -name tests -o -name include \) -prune -exec rm -rf {} +
