"""Tests of machine code from another process: it is compiled once and cached, and damaged files are not used."""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from deploy.models.compile.packing import pack
from server.engines import forest, kernel, native
from server.engines.native import Function, object_file
from server.errors import ModelError
from server.settings import ROOT
from tests.support.models.forests import compile_once, double_columns, numeric_rows

CODE = b"code of b for 7\n" * 1000


class Compiler:
    """A program that prints ``CODE``, or runs another body, and counts how often it was started."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.name = f"compiler_{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
        self._path = folder / "source" / f"{self.name}.py"
        self._log = folder / "starts"
        self._path.parent.mkdir()
        patch.syspath_prepend(str(self._path.parent))
        patch.setenv("PYTHONPATH", str(self._path.parent))
        patch.setattr(sys, "dont_write_bytecode", True)
        self.write(f"sys.stdout.write({CODE.decode()!r})")

    def write(self, body: str) -> None:
        """Replace the program's code, which first logs its start."""
        log_start = f"open({str(self._log)!r}, 'a').write('x')"
        self._path.write_text(f"import sys\nif __name__ == '__main__':\n    {log_start}\n    {body}\n")

    @property
    def starts(self) -> int:
        return len(self._log.read_text()) if self._log.exists() else 0


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    return Compiler(tmp_path, monkeypatch)


def fail_to_start(*_args: Any, **_options: Any) -> Any:
    raise AssertionError("a process was started")


def test_compiled_code_is_cached(compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code is cached, so that the second time no process is started."""
    cache = tmp_path / "var" / "kernels"
    assert object_file(compiler.name, "7", cache) == CODE
    cached = [path.name for path in cache.iterdir()]
    assert [Path(name).suffix for name in cached] == [".o"]
    monkeypatch.setattr(subprocess, "run", fail_to_start)
    assert object_file(compiler.name, "7", cache) == CODE
    assert [path.name for path in cache.iterdir()] == cached


def test_compiling_without_cache_writes_nothing(compiler: Compiler, tmp_path: Path) -> None:
    """Without a cache folder, the code is compiled each time and no file is written."""
    assert [object_file(compiler.name, "7", None) for _ in range(2)] == [CODE, CODE]
    assert compiler.starts == 2
    assert {path.name for path in tmp_path.iterdir()} == {"source", "starts"}


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 32 + len(CODE) // 2, 32 + len(CODE) - 1])
def test_truncated_cache_file_is_recompiled(compiler: Compiler, tmp_path: Path, size: int) -> None:
    """A truncated file in the cache is compiled again and complete afterwards."""
    object_file(compiler.name, "7", tmp_path / "kernels")
    (cached,) = (tmp_path / "kernels").iterdir()
    complete = cached.read_bytes()
    cached.write_bytes(complete[:size])
    assert object_file(compiler.name, "7", tmp_path / "kernels") == CODE
    assert compiler.starts == 2
    assert cached.read_bytes() == complete


@pytest.mark.parametrize("index", [0, 31, 32, -1])
def test_damaged_cache_file_is_recompiled(compiler: Compiler, tmp_path: Path, index: int) -> None:
    """A file in the cache with a flipped bit or additional bytes is compiled again."""
    object_file(compiler.name, "7", tmp_path / "kernels")
    (cached,) = (tmp_path / "kernels").iterdir()
    complete = cached.read_bytes()
    damaged = bytearray(complete)
    damaged[index] ^= 4
    for content in (bytes(damaged), complete + b"x"):
        cached.write_bytes(content)
        assert object_file(compiler.name, "7", tmp_path / "kernels") == CODE
        assert cached.read_bytes() == complete
    assert compiler.starts == 3


def test_cache_key_includes_source_processor_and_versions(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another argument, source, processor, or version of Numba or LLVM has its own file in the cache."""
    cache = tmp_path / "kernels"

    def compiled(argument: str = "7") -> int:
        object_file(compiler.name, argument, cache)
        return compiler.starts

    assert [compiled(), compiled(), compiled("8"), compiled("8")] == [1, 1, 2, 2]
    compiler.write("sys.stdout.write('other')")
    assert [compiled(), compiled()] == [3, 3]
    changes: list[tuple[Any, str, Any]] = [
        (llvm, "get_host_cpu_name", lambda: "z80"),
        (llvm, "get_default_triple", lambda: "z80-cpm"),
        (native, "_features", lambda: "+z80"),
        (native, "version", {"numba": "0", "llvmlite": "1"}.get),
        (native, "version", {"numba": "1", "llvmlite": "0"}.get),
    ]
    for change in changes:
        previous = compiler.starts
        with monkeypatch.context() as patch:
            patch.setattr(*change)
            assert [compiled(), compiled()] == [previous + 1, previous + 1]
        assert compiled() == previous + 1
    assert len(list(cache.iterdir())) == 8


def test_impossible_cache_folder_compiles_each_time(compiler: Compiler, tmp_path: Path) -> None:
    """If the cache folder cannot be created, the code is compiled each time."""
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / "kernels"
    assert [object_file(compiler.name, "7", cache) for _ in range(2)] == [CODE, CODE]
    assert compiler.starts == 2


def test_unwritable_cache_leaves_no_partial_file(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the cache cannot be written, the code is used nevertheless, and no incomplete file remains."""

    def fail_to_write(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    cache = tmp_path / "kernels"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail_to_write)
        assert object_file(compiler.name, "7", cache) == CODE
    assert list(cache.glob("*.o")) == []
    assert object_file(compiler.name, "7", cache) == CODE
    assert len(list(cache.glob("*.o"))) == 1


def test_folder_in_place_of_a_cache_file_is_ignored(compiler: Compiler, tmp_path: Path) -> None:
    """A folder in place of a file in the cache is ignored, and the code is compiled."""
    object_file(compiler.name, "7", tmp_path / "kernels")
    (cached,) = (tmp_path / "kernels").iterdir()
    cached.unlink()
    cached.mkdir()
    assert object_file(compiler.name, "7", tmp_path / "kernels") == CODE


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ValueError('no such width\\n\\nat all')", "at all"),
        ("raise ValueError('no such width')", "ValueError: no such width"),
        ("sys.exit('LLVM says no')", "LLVM says no"),
        ("sys.exit(3)", "status 3"),
        ("pass", "status 0"),
        ("import os; os.kill(os.getpid(), 9)", "status -9"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("sys.stdout.write('half'); sys.stdout.flush(); sys.exit('then failed')", "then failed"),
        ("sys.stderr.buffer.write(b'\\xff\\xfe'); sys.exit(1)", "��"),
    ],
)
def test_failed_compilation_is_a_one_line_error(compiler: Compiler, tmp_path: Path, body: str, reason: str) -> None:
    """Code that does not compile raises a one-line ModelError with the program's error, and nothing is cached."""
    compiler.write(body)
    for cache in (None, tmp_path / "kernels"):
        with pytest.raises(ModelError) as caught:
            object_file(compiler.name, "7", cache)
        assert str(caught.value) == f"{compiler.name} does not compile: {reason}"
    assert not (tmp_path / "kernels").exists()


def test_processes_that_compile_at_once_leave_one_complete_file(compiler: Compiler, tmp_path: Path) -> None:
    """Several processes that compile at the same time all get the code, and leave one complete file in the cache."""
    script = (
        "import sys; from pathlib import Path; from server.engines.native import object_file;"
        f"sys.stdout.buffer.write(object_file({compiler.name!r}, '7', Path({str(tmp_path / 'kernels')!r})))"
    )
    environ = {"PYTHONPATH": f"{ROOT}:{tmp_path / 'source'}", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", script]
    children = [subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) for _ in range(3)]
    assert [child.communicate()[0] for child in children] == [CODE] * 3
    (cached,) = (tmp_path / "kernels").iterdir()
    assert cached.read_bytes()[32:] == CODE


def compiled(text: str) -> bytes:
    machine = native.target_machine()
    module = llvm.parse_assembly(text)
    module.verify()
    return bytes(machine.emit_object(module))


def test_native_function_takes_addresses_and_integers() -> None:
    """The function of an object file takes addresses and integers, and can be loaded several times."""
    code = compiled(
        "define void @put(ptr %p, i64 %a, i64 %b) {\n  %c = sub i64 %a, %b\n  store i64 %c, ptr %p\n  ret void\n}\n"
    )
    value = ctypes.c_int64(0)
    functions = [Function(code, "put", "pnn") for _ in range(3)]
    for number, function in enumerate(functions):
        function.call(ctypes.addressof(value), 2**40, -number)
        assert value.value == 2**40 + number
    with pytest.raises(ctypes.ArgumentError):
        functions[0].call(ctypes.addressof(value), 1.5, 2)


def test_cached_kernel_gives_identical_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forest's kernel gives the same results when it is loaded from the cache."""
    estimator = DecisionTreeClassifier(random_state=0).fit(np.arange(20).reshape(-1, 2), np.arange(10) % 3)
    packed, rows = pack(estimator, double_columns(2)), numeric_rows(np.arange(40).reshape(-1, 2))
    expected = estimator.predict_proba(rows.numbers)
    assert np.array_equal(forest.create_engine(packed, double_columns(2), tmp_path).outputs(rows), expected)
    monkeypatch.setattr(subprocess, "run", fail_to_start)
    assert np.array_equal(forest.create_engine(packed, double_columns(2), tmp_path).outputs(rows), expected)
    (cached,) = tmp_path.iterdir()
    assert len(cached.read_bytes()) < 50_000


@pytest.mark.parametrize("field_words", ["1", "2"])
def test_kernel_calls_no_function_of_numba_or_python(field_words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The object file of a kernel of either width refers to no function of Numba or Python."""
    compile_once(monkeypatch)
    code = object_file(kernel.__name__, field_words, None)
    assert kernel.SYMBOL.encode() in code
    for prefix in (b"numba_", b"NRT_", b"Py"):
        assert prefix not in code


def test_numba_that_does_not_import_is_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If Numba cannot be imported, compiling the kernel raises a one-line error with the reason."""
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs another NumPy')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ModelError, match=r"^server\.engines\.kernel does not compile: .*Numba needs another NumPy$"):
        object_file(kernel.__name__, "1", None)


@pytest.mark.parametrize("arguments", [[], ["0"], ["3"], ["1", "2"], ["12"], ["-h"], [""]])
def test_kernel_program_prints_usage_for_unknown_width(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], arguments: list[str]
) -> None:
    """The kernel's program prints its usage to stderr, and no code, for any arguments but one known width."""
    monkeypatch.setattr(sys, "argv", ["kernel", *arguments])
    assert kernel.main() == 2
    out, err = capsysbinary.readouterr()
    assert out == b""
    assert err.startswith(b"usage: ")
