"""Console blocks of a Markdown page: read from the page, run in one shell, compared with the output that it shows.

In a fenced block ``console`` a line that starts with ``$ `` is a command, which continues while a quote or a
here-document is open or the line ends with a backslash; the lines below it are its expected output. A comment directly
above a block changes how it is treated: ``<!-- not run: REASON -->`` leaves the block out, and
``<!-- file: NAME -->`` saves it as a file.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from deploy.stack.paths import ROOT

_PROMPT = "$ "
_DIRECTIVE = re.compile(r"<!-- (not run|file): (.+?) -->", re.DOTALL)
_HERE_DOCUMENT = re.compile(r"<<'?(\w+)'?")
_END_OF_COMMAND = re.compile(r"^@@ end of command, status (\d+) @@$\n", re.MULTILINE)
_REPORT_STATUS = "printf '\\n@@ end of command, status %s @@\\n' $?"
# Numbers that are compared: HTTP statuses, and versions of models.
_LITERAL_NUMBER = re.compile(r"""((?:HTTP/[\d.]+\s|status\W{1,3}|version\W{1,4}))(\d+)\b""")
_DIGITS_TO_LETTERS = str.maketrans("0123456789", "ABCDEFGHIJ")
_SHELLS = ("sh", "bash", "shell", "console")


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
# Pages in another language, with their originals.
TRANSLATIONS = {ROOT / "docs/workshop.es.md": ROOT / "docs/workshop.md"}


@dataclass(frozen=True)
class Command:
    """A command of a page: the line that it starts on, its text, and the output shown below it, which may be empty."""

    line: int
    text: str
    expected: str = ""


@dataclass(frozen=True)
class Block:
    """A fenced block: the line that it starts on, its language, its text, and the comment above it."""

    line: int
    language: str
    text: str
    not_run: str = ""
    file: str = ""

    @property
    def is_shell(self) -> bool:
        return self.language in _SHELLS

    def commands(self) -> list[Command]:
        """Return what a shell runs for this block.

        Raises:
            ValueError: the block is a console block that does not start with a command.
        """
        if self.not_run:
            return []
        if self.file:
            return [Command(self.line, f"cat > {shlex.quote(self.file)} <<'END_OF_FILE'\n{self.text}END_OF_FILE")]
        return list(_commands(self.text.splitlines(), self.line + 1)) if self.language == "console" else []


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a Markdown page, in order."""
    page_blocks: list[Block] = []
    directive: dict[str, str] = {}
    for token in MarkdownIt("commonmark").parse(page.read_text()):
        if token.type == "fence":
            line = token.map[0] + 1 if token.map else 0
            page_blocks.append(
                Block(
                    line,
                    token.info.strip(),
                    token.content,
                    not_run=directive.get("not run", ""),
                    file=directive.get("file", ""),
                )
            )
        match = _DIRECTIVE.fullmatch(token.content.strip()) if token.type == "html_block" else None
        directive = {match[1]: match[2]} if match else {}
    return page_blocks


def _commands(lines: list[str], first: int) -> Iterator[Command]:
    if not lines or not lines[0].startswith(_PROMPT):
        raise ValueError(f"line {first}: expected a command after '{_PROMPT}', got {lines[:1]}")
    start = 0
    while start < len(lines):
        end = start + 1
        text = lines[start].removeprefix(_PROMPT)
        while end < len(lines) and _continues(text):
            text += "\n" + lines[end]
            end += 1
        output_end = end
        while output_end < len(lines) and not lines[output_end].startswith(_PROMPT):
            output_end += 1
        yield Command(first + start, text, "\n".join(lines[end:output_end]))
        start = output_end


def _continues(text: str) -> bool:
    here_document = _HERE_DOCUMENT.search(text)
    if here_document:
        return text.splitlines()[-1] != here_document[1]
    if text.endswith("\\"):
        return True
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return True
    return False


def run(commands: list[Command], folder: Path, environ: Mapping[str, str], timeout_seconds: float) -> list[str]:
    """Run commands one after another in one Bash, and return the differences from the page.

    A difference is a wrong exit status, or output that does not match (see :func:`matches`). Commands whose expected
    output shows an error must fail; all others must succeed.

    Raises:
        subprocess.TimeoutExpired: the commands did not end in time.
    """
    script = "".join(f"{{ {command.text}\n}} </dev/null 2>&1; {_REPORT_STATUS}\n" for command in commands)
    log = folder / ".console-output"
    with log.open("w") as output:
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder,
            env=dict(environ),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            shell.wait(timeout_seconds)
        except BaseException:  # The shell's own commands must not outlive it.
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
            raise
    pieces = _END_OF_COMMAND.split(log.read_text())
    outputs, statuses = pieces[:-1:2], pieces[1::2]
    problems = [
        problem
        for command, output, status in zip(commands, outputs, statuses, strict=False)
        if (problem := _difference(command, output, int(status)))
    ]
    if len(statuses) < len(commands):
        problems.append(f"the shell ended in line {commands[len(statuses)].line}: {pieces[-1]}")
    return problems


def _difference(command: Command, output: str, status: int) -> str:
    should_fail = re.search(r"^error: |make: \*\*\*", command.expected, re.MULTILINE) is not None
    shown = f"line {command.line}: {command.text}\nprinted, with status {status}:\n{output.strip()}"
    if (status != 0) != should_fail:
        return f"{shown}\nbut it should have {'failed' if should_fail else 'succeeded'}"
    if command.expected and not matches(command.expected, output):
        return f"{shown}\nbut the page shows:\n{command.expected}"
    return ""


def matches(expected: str, output: str) -> bool:
    """Return whether an output matches the expected one.

    ``...`` stands for any text without an error or a traceback. Every number equals any other, except HTTP statuses
    and versions of models, as does every short identifier of a container. White space, so also where lines break, and
    the ports of 127.0.0.1 do not matter.
    """
    if any(word in output and word not in expected for word in ("Traceback", "error: ")):
        return False
    pattern = ".*".join(re.escape(_normalize(part)) for part in expected.split("..."))
    return re.fullmatch(pattern, _normalize(output), re.DOTALL) is not None


def _normalize(text: str) -> str:
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1", text)
    text = re.sub(r"(?<![0-9a-z])[0-9a-f]{12}(?![0-9a-z])", "<id>", text)
    text = _LITERAL_NUMBER.sub(lambda match: match[1] + match[2].translate(_DIGITS_TO_LETTERS), text)
    text = re.sub(r"(\d{1,3}(,\d{3})+(?!\d)|\d+)(\.\d+)?(e[+-]?\d+)?", "0", text)
    return "".join(text.split())
