"""A report as parts that are told alike in Markdown and in HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph, under a question where it answers one."""

    text: str
    question: str = ""


@dataclass(frozen=True, slots=True)
class Bullets:
    """Sentences, none of which follows from another."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of plain text: the first ``words`` columns and the last one to the left, numbers to the right.

    A ``folded`` one opens at a click on these words.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    folded: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A plot: SVG for pages, and a file for Markdown where there is one."""

    title: str
    caption: str
    svg: str
    file: str = ""


Block = Text | Bullets | Table | Picture


@dataclass(frozen=True, slots=True)
class Section:
    """What stands under one heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Document:
    """``lead`` is the one sentence that a hurried reader takes away."""

    title: str
    lead: str
    sections: Sequence[Section]
