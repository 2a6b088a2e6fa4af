"""The check of the links between Markdown files."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.checks import links


def write_pages(folder: Path, text: str) -> Path:
    (folder / "other.md").write_text("# Other page\n\n## With `code`, and more\n\n## Twice\n\n## Twice\n")
    page = folder / "page.md"
    page.write_text(f"# Page\n\n{text}\n")
    return page


@pytest.mark.parametrize(
    "text",
    [
        "[a](other.md)", "[a](other.md#with-code-and-more)", "[a](other.md#twice-1)", "[a](#page)", "[a](https://x.org/y)",
        "`[a](missing.md)`", "| [a](other.md) |\n|---|\n",
    ],
)  # fmt: skip
def test_links_to_files_and_headings_pass(tmp_path: Path, text: str) -> None:
    """Links to files, to headings and to other hosts are right, and code is no link."""
    assert links.broken_links(write_pages(tmp_path, text)) == []


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[a](missing.md)", "page.md:3: missing.md: expected a file, got none at"),
        ("![a](missing.png)", "page.md:3: missing.png: expected a file"),
        ("[a](other.md#twice-2)", "page.md:3: other.md#twice-2: expected a heading of other.md, got #twice-2"),
        ("[a](/other.md)", "page.md:3: /other.md: expected a path relative to the page"),
        ("[a](#nowhere)", "page.md:3: #nowhere: expected a heading of page.md"),
        ("| a |\n|---|\n| [a](missing.md) |", "page.md:5: missing.md: expected a file"),
    ],
)
def test_broken_link_is_reported_with_its_line(tmp_path: Path, text: str, error: str) -> None:
    """A link that leads nowhere is an error that names its page, its line and what was expected."""
    assert [line[: len(error)] for line in links.broken_links(write_pages(tmp_path, text))] == [error]


def test_check_fails_with_a_line_for_each_broken_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command ends with 1 and prints the errors of all pages."""
    write_pages(tmp_path, "[a](missing.md)").rename(tmp_path / "README.md")
    monkeypatch.setattr(links, "ROOT", tmp_path)
    assert links.main() == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: README.md:3: missing.md")
    assert printed.out == "links: 1 pages checked\n"
