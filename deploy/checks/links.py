"""``python -m deploy.checks.links``: check that links between the Markdown files lead to a file and a heading.

Links to other hosts are not followed, so that the check works without a network.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

from deploy.stack.paths import ROOT

PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md")


def broken_links(page: Path) -> list[str]:
    """Return an error for each link or image of a page that leads to no file, or to no heading of its file."""
    errors = []
    for line, target in _targets(page):
        path, _, fragment = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        if path.startswith("/"):
            errors.append(f"{page.name}:{line}: {target}: expected a path relative to the page, got an absolute one")
        elif not file.exists():
            errors.append(f"{page.name}:{line}: {target}: expected a file, got none at {file}")
        elif fragment and fragment not in _fragments(file):
            errors.append(f"{page.name}:{line}: {target}: expected a heading of {file.name}, got #{fragment}")
    return errors


def _targets(page: Path) -> Iterator[tuple[int, str]]:
    for block in _tokens(page):
        for token in block.children or ():
            target = str(token.attrGet("href") or token.attrGet("src") or "")
            if target and not re.match(r"[a-z][a-z0-9+.-]*:", target):
                yield (block.map[0] + 1 if block.map else 0), target


def _fragments(page: Path) -> set[str]:
    """Return the fragments that GitHub gives the headings of a page."""
    fragments: set[str] = set()
    tokens = _tokens(page)
    for heading, inline in itertools.pairwise(tokens):
        if heading.type == "heading_open":
            text = "".join(child.content for child in inline.children or ())
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            repeated = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", fragment) is not None for fragment in fragments)
            fragments.add(f"{slug}-{repeated}" if repeated else slug)
    return fragments


def _tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


def main() -> int:
    """Print how many pages were checked; return 1 after a line on standard error for each broken link."""
    pages = sorted(page for pattern in PAGES for page in ROOT.glob(pattern))
    errors = [error for page in pages for error in broken_links(page)]
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    print(f"links: {len(pages)} pages checked")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
