"""Machine code from another process: compiled once, kept where that is possible, and never trusted when damaged."""

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
    """A program that prints ``CODE``, or what it is given, and counts how often it was started."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.name = f"compiler_{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
        self._path = folder / "source" / f"{self.name}.py"
        self._started = folder / "started"
        self._path.parent.mkdir()
        patch.syspath_prepend(str(self._path.parent))
        patch.setenv("PYTHONPATH", str(self._path.parent))
        patch.setattr(sys, "dont_write_bytecode", True)
        self.write(f"sys.stdout.write({CODE.decode()!r})")

    def write(self, body: str) -> None:
        """Let it do something else."""
        note = f"open({str(self._started)!r}, 'a').write('x')"
        self._path.write_text(f"import sys\nif __name__ == '__main__':\n    {note}\n    {body}\n")

    @property
    def started(self) -> int:
        return len(self._started.read_text()) if self._started.exists() else 0


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    return Compiler(tmp_path, monkeypatch)


def no_child(*_args: Any, **_options: Any) -> Any:
    raise AssertionError("a process was started")


def test_compiled_code_is_cached(compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was compiled is kept, and the second time no process is started."""
    cache = tmp_path / "var" / "kernels"
    assert object_file(compiler.name, "7", cache) == CODE
    kept = [path.name for path in cache.iterdir()]
    assert [Path(name).suffix for name in kept] == [".o"]
    monkeypatch.setattr(subprocess, "run", no_child)
    assert object_file(compiler.name, "7", cache) == CODE
    assert [path.name for path in cache.iterdir()] == kept


def test_compiling_without_cache_writes_nothing(compiler: Compiler, tmp_path: Path) -> None:
    """Without a folder it is compiled each time, and nothing is written."""
    assert [object_file(compiler.name, "7", None) for _ in range(2)] == [CODE, CODE]
    assert compiler.started == 2
    assert {path.name for path in tmp_path.iterdir()} == {"source", "started"}


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 32 + len(CODE) // 2, 32 + len(CODE) - 1])
def test_truncated_cache_file_is_recompiled(compiler: Compiler, tmp_path: Path, size: int) -> None:
    """A kept file that was cut short is compiled anew, and whole afterwards."""
    object_file(compiler.name, "7", tmp_path / "kernels")
    (kept,) = (tmp_path / "kernels").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:size])
    assert object_file(compiler.name, "7", tmp_path / "kernels") == CODE
    assert compiler.started == 2
    assert kept.read_bytes() == whole


@pytest.mark.parametrize("place", [0, 31, 32, -1])
def test_damaged_cache_file_is_recompiled(compiler: Compiler, tmp_path: Path, place: int) -> None:
    """A kept file with one wrong bit, or with more behind it, is compiled anew."""
    object_file(compiler.name, "7", tmp_path / "kernels")
    (kept,) = (tmp_path / "kernels").iterdir()
    whole = kept.read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 4
    for content in (bytes(damaged), whole + b"x"):
        kept.write_bytes(content)
        assert object_file(compiler.name, "7", tmp_path / "kernels") == CODE
        assert kept.read_bytes() == whole
    assert compiler.started == 3


def test_cache_key_includes_source_processor_and_versions(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another argument, source, processor, version of Numba or of LLVM each take code of their own."""
    cache = tmp_path / "kernels"

    def compiled(argument: str = "7") -> int:
        object_file(compiler.name, argument, cache)
        return compiler.started

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
        before = compiler.started
        with monkeypatch.context() as patch:
            patch.setattr(*change)
            assert [compiled(), compiled()] == [before + 1, before + 1]
        assert compiled() == before + 1
    assert len(list(cache.iterdir())) == 8


def test_impossible_cache_folder_compiles_each_time(compiler: Compiler, tmp_path: Path) -> None:
    """Where the folder cannot be made, it is compiled each time."""
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / "kernels"
    assert [object_file(compiler.name, "7", cache) for _ in range(2)] == [CODE, CODE]
    assert compiler.started == 2


def test_unwritable_cache_leaves_no_partial_file(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be written, the code is used all the same, and nothing half written is left to be read."""

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    cache = tmp_path / "kernels"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert object_file(compiler.name, "7", cache) == CODE
    assert list(cache.glob("*.o")) == []
    assert object_file(compiler.name, "7", cache) == CODE
    assert len(list(cache.glob("*.o"))) == 1


def test_folder_in_the_place_of_the_file(compiler: Compiler, tmp_path: Path) -> None:
    """A folder where the file should be is no reason to fail."""
    object_file(compiler.name, "7", tmp_path / "kernels")
    (kept,) = (tmp_path / "kernels").iterdir()
    kept.unlink()
    kept.mkdir()
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
    """What does not compile is a ModelError of one line, in the words of the child, and nothing is kept."""
    compiler.write(body)
    for cache in (None, tmp_path / "kernels"):
        with pytest.raises(ModelError) as caught:
            object_file(compiler.name, "7", cache)
        assert str(caught.value) == f"{compiler.name} does not compile: {reason}"
    assert not (tmp_path / "kernels").exists()


def test_at_the_same_time(compiler: Compiler, tmp_path: Path) -> None:
    """Replicas that start at once each have the code, and leave one whole file."""
    script = (
        "import sys; from pathlib import Path; from server.engines.native import object_file;"
        f"sys.stdout.buffer.write(object_file({compiler.name!r}, '7', Path({str(tmp_path / 'kernels')!r})))"
    )
    environ = {"PYTHONPATH": f"{ROOT}:{tmp_path / 'source'}", "PATH": "/usr/bin:/bin"}
    started = [subprocess.Popen([sys.executable, "-c", script], env=environ, stdout=subprocess.PIPE) for _ in range(3)]
    assert [child.communicate()[0] for child in started] == [CODE] * 3
    (kept,) = (tmp_path / "kernels").iterdir()
    assert kept.read_bytes()[32:] == CODE


def compiled(text: str) -> bytes:
    machine = native.target_machine()
    module = llvm.parse_assembly(text)
    module.verify()
    return bytes(machine.emit_object(module))


def test_native_function_takes_addresses_and_integers() -> None:
    """An object file's function takes addresses and whole numbers, and stays loaded as long as its object."""
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
    """The forest's kernel is compiled once, kept, and does from the file what it did at first."""
    estimator = DecisionTreeClassifier(random_state=0).fit(np.arange(20).reshape(-1, 2), np.arange(10) % 3)
    packed, rows = pack(estimator, double_columns(2)), numeric_rows(np.arange(40).reshape(-1, 2))
    expected = estimator.predict_proba(rows.numbers)
    assert np.array_equal(forest.make(packed, double_columns(2), tmp_path).totals(rows), expected)
    monkeypatch.setattr(subprocess, "run", no_child)
    assert np.array_equal(forest.make(packed, double_columns(2), tmp_path).totals(rows), expected)
    (kept,) = tmp_path.iterdir()
    assert len(kept.read_bytes()) < 50_000


@pytest.mark.parametrize("words", ["1", "2"])
def test_kernel_needs_nothing(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel for either width is an object file that asks for no function of Numba's or of Python's."""
    compile_once(monkeypatch)
    code = object_file(kernel.__name__, words, None)
    assert kernel.SYMBOL.encode() in code
    for needed in (b"numba_", b"NRT_", b"Py"):
        assert needed not in code


def test_kernel_with_a_broken_numba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Numba does not import, a forest is refused in one line that says so."""
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs another NumPy')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ModelError, match=r"^server\.engines\.kernel does not compile: .*Numba needs another NumPy$"):
        object_file(kernel.__name__, "1", None)


@pytest.mark.parametrize("arguments", [[], ["0"], ["3"], ["1", "2"], ["12"], ["-h"], [""]])
def test_kernel_program_prints_usage_for_unknown_width(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], arguments: list[str]
) -> None:
    """The kernel's program prints how it is used on stderr, and no code, when it is asked for no width that it has."""
    monkeypatch.setattr(sys, "argv", ["kernel", *arguments])
    assert kernel.main() == 2
    out, err = capsysbinary.readouterr()
    assert out == b""
    assert err.startswith(b"usage: ")
