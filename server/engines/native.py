"""Machine code that another process has compiled, loaded as a function of this process by LLVM.

Compiling takes a second and the memory of Numba, so it runs in a short-lived process, and only once for each processor
and version: the object file is cached in a folder that the replicas of one host share. If the folder is not writable,
the code is compiled at each start. It is always loaded before the fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from server.errors import ModelError, last_line
from server.system.files import write_atomically

_ROOT = Path(__file__).resolve().parents[2]
_DIGEST_BYTES = hashlib.sha256().digest_size


class Function:
    """A function loaded from an object file, whose code lives as long as this object. It releases the GIL."""

    call: Callable[..., None]

    def __init__(self, code: bytes, symbol: str, arguments: str) -> None:
        """Link the object file ``code``. ``arguments`` has a letter per argument: p, an address; n, a whole number."""
        self._engine: Any = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine())
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        types = [ctypes.c_void_p if letter == "p" else ctypes.c_int64 for letter in arguments]
        self.call = ctypes.CFUNCTYPE(None, *types)(self._engine.get_function_address(symbol))


def target_machine() -> Any:
    """Return LLVM's description of this machine's processor, to compile for."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=_features(), opt=3, jit=True)


def object_file(program: str, argument: str, cache: Path | None) -> bytes:
    """Return the object file that ``python -m program argument`` prints.

    It is cached in the folder ``cache``, if given, for the program's source, the compiler's version and the processor.

    Raises:
        ModelError: the code does not compile; the message has the program's error.
    """
    if cache is None:
        return _compile(program, argument)
    path = cache / f"{_cache_key(program, argument)}.o"
    code = _read_cached(path)
    if code is None:
        code = _compile(program, argument)
        with contextlib.suppress(OSError):  # such as a read-only file system
            _write_cached(path, code)
    return code


def _compile(program: str, argument: str) -> bytes:
    command = [sys.executable, "-m", program, argument]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))}
    process = subprocess.run(command, env=environ, capture_output=True, check=False)
    if process.returncode or not process.stdout:
        reason = last_line(process.stderr.decode(errors="replace"), f"status {process.returncode}")
        raise ModelError(f"{program} does not compile: {reason}")
    return process.stdout


def _cache_key(program: str, argument: str) -> str:
    source = Path(str(importlib.import_module(program).__file__)).read_bytes()
    machine = (llvm.get_default_triple(), llvm.get_host_cpu_name(), _features())
    parts = (source, version("numba"), version("llvmlite"), *machine, argument)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _features() -> str:
    try:
        return str(llvm.get_host_cpu_features().flatten())
    except RuntimeError:  # LLVM cannot detect them on all processors
        return ""


def _read_cached(path: Path) -> bytes | None:
    # Loading a truncated file would crash this process, so its digest is checked first.
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, code = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return code if hashlib.sha256(code).digest() == digest else None


def _write_cached(path: Path, code: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, hashlib.sha256(code).digest() + code)
