"""Tests of finding, running and parsing wrk, with fake programs. End-to-end tests run the real one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.bench.wrk import Answers, Wrk, find_wrk, read_answers, write_script
from deploy.errors import CommandError
from tests.support.bench_results import NO_ERRORS

# An output that also has percentages in the column Stdev, which are not percentiles.
OUTPUT = """\
Running 8s test @ http://127.0.0.1:8000/predict
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     4.51ms    1.02ms  20.11ms   94.50%
    Req/Sec    14.20k   512.33    15.01k    81.99%
  Latency Distribution
     50%  850.00us
     75%    4.80ms
     90%    5.40ms
     99%    1.20s
  113601 requests in 8.00s, 20.30MB read
Requests/sec:  14199.42
Transfer/sec:      2.54MB
"""
ERRORS = """\
  Socket errors: connect 1, read 20, write 300, timeout 4000
  Non-2xx or 3xx responses: 50000
"""


def with_errors(errors: str) -> str:
    head, tail = OUTPUT.split("Requests/sec:")
    return f"{head}{errors}Requests/sec:{tail}"


def fake_wrk(folder: Path, output: str) -> Wrk:
    """Return a program that prints an output of wrk and saves its arguments."""
    (folder / "output").write_text(output)
    program = folder / "wrk"
    program.write_text(f'#!/bin/sh\necho "$@" > "{folder}/arguments"\ncat "{folder}/output"\n')
    program.chmod(0o755)
    return Wrk(str(program))


def arguments(folder: Path) -> list[str]:
    return (folder / "arguments").read_text().split()


def test_wrk_figures_are_read_in_milliseconds() -> None:
    """Answers, rate and percentiles are parsed, with times in milliseconds, and errors are 0 if wrk prints none."""
    assert read_answers(OUTPUT) == Answers(113601, 14199.42, 0.85, 1200.0, NO_ERRORS)


def test_wrk_errors_are_counted_by_type() -> None:
    """Errors are counted by type, and answers with an error status are not successful."""
    answers = read_answers(with_errors(ERRORS))
    assert answers.errors == {"connect": 1, "read": 20, "write": 300, "timeout": 4000, "status": 50000}
    assert answers.successful == 113601 - 50000


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("850.00us", 0.85), ("4.33ms", 4.33), ("1.20s", 1200.0), ("2.00m", 120_000.0), ("1.00h", 3_600_000.0)],
)
def test_wrk_time_units_convert_to_milliseconds(text: str, milliseconds: float) -> None:
    """Times in every unit of wrk are converted to milliseconds."""
    assert read_answers(OUTPUT.replace("850.00us", text)).p50 == milliseconds


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("unable to connect to 127.0.0.1:8000 Connection refused\n", "unable to connect to 127.0.0.1:8000 Connection"),
        (OUTPUT.replace("850.00us", "0.85ns"), "output of wrk: expected a time in us, ms, s, m or h, got '0.85ns'"),
        (OUTPUT.replace("113601", "0"), "no answer arrived during a row; set a longer time with BENCH_SECONDS="),
    ],
)
def test_unreadable_wrk_output_is_a_one_line_error(output: str, reason: str) -> None:
    """Output without figures is an error of one line that contains the output or says what to do."""
    with pytest.raises(CommandError) as caught:
        read_answers(output)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_predictions_are_posted(tmp_path: Path) -> None:
    """For predictions wrk runs with the script, on one thread, for the given time."""
    wrk = fake_wrk(tmp_path, OUTPUT)
    assert wrk.run("http://127.0.0.1:8000/predict", 512, 6, tmp_path / "post.lua").count == 113601
    called = arguments(tmp_path)
    assert {"-t1", "-c512", "-d6s", "--latency", f"{tmp_path}/post.lua"} <= set(called)
    assert called[-1] == "http://127.0.0.1:8000/predict"


def test_floor_is_measured_with_get(tmp_path: Path) -> None:
    """Without a script wrk sends GET requests."""
    fake_wrk(tmp_path, OUTPUT).run("http://127.0.0.1:8000/health", 64, 6)
    assert "-s" not in arguments(tmp_path)


def test_warm_up_output_is_ignored(tmp_path: Path) -> None:
    """A warm-up can be shorter than 1 s, the minimum of wrk, and its output is not parsed."""
    program = tmp_path / "wrk"
    program.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/arguments"\nexec sleep 60\n')
    program.chmod(0o755)
    Wrk(str(program)).warm_up("http://127.0.0.1:8000/predict", 64, 0.2, tmp_path / "post.lua")
    assert "-d1s" in arguments(tmp_path)


def test_script_names_the_bodies_file(tmp_path: Path) -> None:
    """The script contains the path of the bodies, and no escapes of Python's string formatting."""
    script = write_script(tmp_path / "bodies.jsonl", tmp_path).read_text()
    match = re.search(r'io\.lines\("(.*)"\)', script)
    assert match is not None
    assert match[1] == f"{tmp_path}/bodies.jsonl"
    assert "turn % #requests" in script
    assert "%%" not in script


def test_installed_wrk_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed wrk is used, without an installation."""
    fake_wrk(tmp_path, OUTPUT)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_wrk()._binary == str(tmp_path / "wrk")


@pytest.mark.parametrize(("user", "apt"), [(1000, "/usr/bin/apt-get"), (0, None)])
def test_missing_wrk_error_says_how_to_install(user: int, apt: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """If wrk is missing and cannot be installed, the error names the command that installs it."""
    monkeypatch.setattr(shutil, "which", lambda name: apt if name == "apt-get" else None)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(CommandError, match=r"^wrk is missing; install it first: sudo apt-get install wrk \(or .*\)$"):
        find_wrk()


@pytest.mark.parametrize("succeeds", [True, False])
def test_root_installs_wrk_with_apt(
    succeeds: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Root installs wrk with apt-get and a message, and a failure is an error that says what to try."""
    called: list[list[str]] = []

    def run(command: list[str], **_options: object) -> None:
        called.append(command)

    def which(name: str) -> str | None:
        exists = name == "apt-get" or (succeeds and any("install" in command for command in called))
        return f"/usr/bin/{name}" if exists else None

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(shutil, "which", which)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    if succeeds:
        assert find_wrk()._binary == "/usr/bin/wrk"
    else:
        with pytest.raises(CommandError, match="apt-get could not install it; try: apt-get update && apt-get install"):
            find_wrk()
    assert [command[2] for command in called] == ["update", "install"]
    assert called[1][-1] == "wrk"
    assert capsys.readouterr().out == "wrk is missing: installing it with apt-get\n"
