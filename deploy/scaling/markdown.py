"""A document in Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from deploy.scaling.document import Block, Bullets, Document, Picture, Table, Text


def markdown(document: Document) -> str:
    """As GitHub and editors show it; pictures only where they are files."""
    parts = [f"# {_plain(document.title)}", f"**{_plain(document.lead)}**"]
    for section in document.sections:
        parts += [f"## {section.title}", *(text for block in section.blocks if (text := _block(block)))]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    match block:
        case Text(text, question):
            return f"**{_plain(question)}** {_plain(text)}" if question else _plain(text)
        case Bullets(items):
            return "\n".join(f"- {_plain(item)}" for item in items)
        case Table():
            return _table(block)
        case Picture(title, caption, _, file):
            return f"![{_plain(title)}]({file})\n\n{_plain(caption)}" if file else ""


def _table(block: Table) -> str:
    body = [[_plain(cell) for cell in row] for row in [block.head, *block.rows]]
    last = len(block.head) - 1
    rule = ["---" if i < block.words or i == last else "---:" for i in range(last + 1)]
    return "\n".join(_line(row) for row in [body[0], rule, *body[1:]])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """On one line, and with nothing that Markdown or HTML would take for its own."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;"))
