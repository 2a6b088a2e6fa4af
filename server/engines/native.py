"""Machine code in a file, made a function of this process: LLVM loads what another process has compiled.

Compiling takes a second and Numba's memory, so it happens in a short-lived process, and once for each processor and
version: the object file is kept where the replicas of one host find it. Where nothing can be written, it is compiled
anew at each start. It is always loaded before the fork.
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
_DIGEST = hashlib.sha256().digest_size


class Function:
    """A loaded function, whose code lives as long as this object. It releases the GIL while it runs."""

    call: Callable[..., None]

    def __init__(self, code: bytes, symbol: str, arguments: str) -> None:
        """Link the object file ``code``; ``arguments`` has one ``p`` (address) or ``n`` (whole number) an argument."""
        self._engine: Any = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine())
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        types = [ctypes.c_void_p if kind == "p" else ctypes.c_int64 for kind in arguments]
        self.call = ctypes.CFUNCTYPE(None, *types)(self._engine.get_function_address(symbol))


def target_machine() -> Any:
    """What LLVM compiles for: the processor of this machine."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=_features(), opt=3, jit=True)


def object_file(program: str, argument: str, cache: Path | None) -> bytes:
    """What ``python -m program argument`` prints, kept in ``cache``, if given, for this source, version and processor.

    Raises:
        ModelError: it does not compile, in the words of the child.
    """
    if cache is None:
        return _compiled(program, argument)
    path = cache / f"{_key(program, argument)}.o"
    code = _kept(path)
    if code is None:
        code = _compiled(program, argument)
        with contextlib.suppress(OSError):  # a read-only file system, say
            _keep(path, code)
    return code


def _compiled(program: str, argument: str) -> bytes:
    command = [sys.executable, "-m", program, argument]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))}
    ran = subprocess.run(command, env=environ, capture_output=True, check=False)
    if ran.returncode or not ran.stdout:
        reason = last_line(ran.stderr.decode(errors="replace"), f"status {ran.returncode}")
        raise ModelError(f"{program} does not compile: {reason}")
    return ran.stdout


def _key(program: str, argument: str) -> str:
    source = Path(str(importlib.import_module(program).__file__)).read_bytes()
    machine = (llvm.get_default_triple(), llvm.get_host_cpu_name(), _features())
    parts = (source, version("numba"), version("llvmlite"), *machine, argument)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _features() -> str:
    try:
        return str(llvm.get_host_cpu_features().flatten())
    except RuntimeError:  # LLVM knows them on some processors only
        return ""


def _kept(path: Path) -> bytes | None:
    """A file that was cut short would end this process: it is used only if it is whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, code = content[:_DIGEST], content[_DIGEST:]
    return code if hashlib.sha256(code).digest() == digest else None


def _keep(path: Path, code: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, hashlib.sha256(code).digest() + code)
