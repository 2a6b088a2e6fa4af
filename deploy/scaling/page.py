"""A document as one HTML page: no script, nothing from elsewhere, for light and dark, wide and narrow."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from string import Template

from deploy.scaling.document import Block, Bullets, Document, Picture, Section, Table, Text
from deploy.scaling.step import FAIL, GENERATOR_BOUND, PASS

_TEMPLATE = Path(__file__).with_name("report.html.template")
_MOODS = {PASS: "good", FAIL: "bad", GENERATOR_BOUND: "unsure"}


def page(document: Document) -> str:
    """All of it, every word escaped."""
    return Template(_TEMPLATE.read_text()).substitute(
        title=escape(document.title),
        lead=escape(document.lead),
        sections="\n".join(_section(section) for section in document.sections),
    )


def _section(section: Section) -> str:
    return (
        f"<section>\n<h2>{escape(section.title)}</h2>\n{''.join(_block(block) for block in section.blocks)}</section>"
    )


def _block(block: Block) -> str:
    match block:
        case Text(text, question):
            return (f"<h3>{escape(question)}</h3>\n" if question else "") + f"<p>{escape(text)}</p>\n"
        case Bullets(items):
            return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>\n"
        case Table():
            return _table(block)
        case Picture(title, caption, svg):
            drawn = f'<div class="wide" role="img" aria-label="{escape(title)}" tabindex="0">{svg}</div>'
            return f"<figure><h3>{escape(title)}</h3>{drawn}<figcaption>{escape(caption)}</figcaption></figure>\n"


def _table(block: Table) -> str:
    head = "".join(f'<th scope="col"{_side(block, i)}>{escape(cell)}</th>' for i, cell in enumerate(block.head))
    rows = (
        "<tr>" + "".join(f"<td{_side(block, i)}>{_cell(cell)}</td>" for i, cell in enumerate(row)) + "</tr>\n"
        for row in block.rows
    )
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>{''.join(rows)}</tbody></table>"
    table = f'<div class="wide" tabindex="0">{table}</div>\n'
    return f"<details><summary>{escape(block.folded)}</summary>\n{table}</details>\n" if block.folded else table


def _side(block: Table, column: int) -> str:
    return "" if column < block.words or column == len(block.head) - 1 else ' class="number"'


def _cell(text: str) -> str:
    mood = _MOODS.get(re.split("[:;]", text)[0])
    return f'<span class="{mood}">{escape(text)}</span>' if mood else escape(text)
