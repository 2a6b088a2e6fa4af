"""The README and the pages in `docs/`: every command is run by a test or says why not; and how they are compared."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.support import console
from tests.support.waiting import wait_until


@pytest.mark.parametrize("page", console.PAGES, ids=lambda page: page.stem)
def test_shell_commands_stand_in_console_blocks(page: Path) -> None:
    """A block of shell commands is a console block, which the tests run, or it says why it is not run."""
    for block in console.blocks(page):
        if block.is_shell and not block.not_run:
            assert block.language == "console", f"{page.name}:{block.line}"
            assert block.commands()


@pytest.mark.parametrize("page", console.TRANSLATIONS, ids=lambda page: page.stem)
def test_translation_shows_the_commands_of_its_original(page: Path) -> None:
    """A page in another language has the same commands with the same output, so that running the original is enough."""
    translated, original = (
        [(command.text, command.expected) for block in console.blocks(path) for command in block.commands()]
        for path in (page, console.TRANSLATIONS[page])
    )
    assert translated == original
    assert original


def test_page_is_read_as_commands_with_their_output(tmp_path: Path) -> None:
    """Commands go on over open quotes, backslashes and here-documents; a file block becomes a command that saves it."""
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: it deletes -->\n```console\n$ rm x\n```\n"
        "<!-- file: a.py -->\n```python\nprint(1)\n```\n"
        "```console\n$ echo '{\n}'\n{\n}\n$ a \\\n b\n$ cat <<'E'\n'\nE\n'\n```\n"
    )
    commands = [(command.text, command.expected) for block in console.blocks(page) for command in block.commands()]
    assert commands == [
        ("cat > a.py <<'END_OF_FILE'\nprint(1)\nEND_OF_FILE", ""),
        ("echo '{\n}'", "{\n}"),
        ("a \\\n b", ""),
        ("cat <<'E'\n'\nE", "'"),
    ]


def test_console_block_without_a_command_is_refused() -> None:
    """A console block that starts with output is an error that names its line."""
    with pytest.raises(ValueError, match=r"line 8: expected a command after '\$ '"):
        console.Block(7, "console", "output\n").commands()


@pytest.mark.parametrize(
    ("expected", "output"),
    [
        ("up in 60 s", "up in 2.5 s\n"),
        ("a ... z", "a b\nc z"),
        ("one line of\ntext", "one\nline of text"),
        ("http://127.0.0.1/docs", "http://127.0.0.1:8080/docs"),
        ("main-1 10120526d1f3 4 s", "main-2 73d986234731 5 s"),
    ],
)
def test_expected_output_matches_but_for_what_differs_from_run_to_run(expected: str, output: str) -> None:
    """Numbers, identifiers of containers, ports, line breaks and what is left out may differ."""
    assert console.matches(expected, output)


@pytest.mark.parametrize(
    ("expected", "output"),
    [
        ("up", "up now"),
        ("a ... z", "a b"),
        ("served", "refused"),
        ("HTTP/1.1 200 OK", "HTTP/1.1 404 Not Found"),
        ('{"status":422,...}', '{"status":500,"detail":"x"}'),
        ("covertype version 2 is served", "covertype version 1 is served"),
        ('{"model_version":"2"}', '{"model_version":"1"}'),
        ("[1,2,3]", "[1]"),
        ("up ...", "up\nTraceback (most recent call last):"),
        ("...", "error: it failed"),
    ],
)
def test_expected_output_does_not_match_another_text(expected: str, output: str) -> None:
    """Other words, or more of them, are a difference."""
    assert not console.matches(expected, output)


def test_commands_that_take_too_long_are_killed(tmp_path: Path) -> None:
    """If the commands do not end in time, the shell and the programs that it started are killed."""
    commands = [console.Command(1, "sleep 60 & echo $! > pid; wait")]
    with pytest.raises(subprocess.TimeoutExpired):
        console.run(commands, tmp_path, os.environ, 1)
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: pid not in running_processes(), seconds=10)


def running_processes() -> set[int]:
    """Return the ids of all processes that have not ended; one that ended may wait for its parent to collect it."""
    processes = psutil.process_iter(["pid", "status"])
    return {process.info["pid"] for process in processes if process.info["status"] != psutil.STATUS_ZOMBIE}


def test_run_reports_each_difference_from_the_page(tmp_path: Path) -> None:
    """A wrong output, an unexpected failure and an unexpected success are told with the line of their command."""
    commands = [
        console.Command(1, "export A=b; echo $A", "b"),
        console.Command(2, "echo $A", "c"),
        console.Command(3, "false"),
        console.Command(4, "true", "error: it failed"),
        console.Command(5, "echo 'error: no' >&2; false", "error: no"),
        console.Command(6, "exit 3"),
        console.Command(7, "true"),
    ]
    problems = console.run(commands, tmp_path, os.environ, 30)
    assert [problem.split(":")[0] for problem in problems] == [
        "line 2",
        "line 3",
        "line 4",
        "the shell ended in line 6",
    ]
