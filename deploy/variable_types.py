"""Types of the variables that configure a command, and how the text of one becomes a value or an error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from deploy.errors import CommandError
from server.settings import ROOT
from server.system import memory_sizes

T_co = TypeVar("T_co", covariant=True)


class Type(Protocol[T_co]):
    """The type of a variable, which turns its text into a value."""

    @property
    def name(self) -> str:
        """The name of the type in the documentation."""
        ...

    def parse(self, text: str) -> T_co:
        """Return the value of a text that is not empty.

        Raises:
            ValueError: saying what was expected.
        """
        ...


@dataclass(frozen=True, slots=True)
class Text:
    """Any text."""

    name: str = "text"

    def parse(self, text: str) -> str:
        """Return the text."""
        return text


@dataclass(frozen=True, slots=True)
class WholeNumber:
    """A whole number in a range."""

    low: int
    high: int

    @property
    def name(self) -> str:
        """The range, for documentation."""
        return f"{self.low} to {self.high:,}"

    def parse(self, text: str) -> int:
        """Return the number."""
        digits = text.isascii() and text.isdigit() and len(text) < 20
        if not digits or not self.low <= int(text) <= self.high:
            raise ValueError(f"a whole number from {self.low} to {self.high}")
        return int(text)


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of some words."""

    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """The words, for documentation."""
        return ", ".join(f"`{word}`" for word in self.words)

    def parse(self, text: str) -> str:
        """Return the word."""
        if text not in self.words:
            raise ValueError(f"one of {', '.join(self.words)}")
        return text


@dataclass(frozen=True, slots=True)
class ListOf:
    """Some words of a list, with spaces between them."""

    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """The words, for documentation."""
        return "list of " + ", ".join(f"`{word}`" for word in self.words)

    def parse(self, text: str) -> tuple[str, ...]:
        """Return the words."""
        words = tuple(text.split())
        if not set(words) <= set(self.words):
            raise ValueError(f"a list of {', '.join(self.words)}")
        return words


@dataclass(frozen=True, slots=True)
class NumberList:
    """Whole numbers from 1 up with spaces between them, each once, in the order given."""

    high: int
    name: str = "list of whole numbers"

    def parse(self, text: str) -> tuple[int, ...]:
        """Return the numbers."""
        try:
            numbers = dict.fromkeys(map(WholeNumber(1, self.high).parse, text.split()))
        except ValueError:
            numbers = {}
        if not numbers:
            raise ValueError(f"whole numbers from 1 to {self.high} with spaces between them")
        return tuple(numbers)


@dataclass(frozen=True, slots=True)
class Switch:
    """``1`` for yes, ``0`` for no."""

    name: str = "`1`"

    def parse(self, text: str) -> bool:
        """Return whether it is on."""
        if text not in ("0", "1"):
            raise ValueError("0 or 1")
        return text == "1"


@dataclass(frozen=True, slots=True)
class FilePath:
    """A path, seen from the checkout where it is relative. Symbolic links stay: what they lead to may change."""

    name: str = "path"

    def parse(self, text: str) -> Path:
        """Return the absolute path."""
        try:
            return ROOT / Path(text).expanduser()
        except RuntimeError:
            raise ValueError("a path; there is no such user, whose home that would be") from None


@dataclass(frozen=True, slots=True)
class Amount(Generic[T_co]):
    """An amount with the variable that gave it and its text, since what is possible depends on the backend."""

    variable: str
    text: str
    value: T_co


@dataclass(frozen=True, slots=True)
class CpuCount:
    """A number of CPUs above 0."""

    name: str = "number of CPUs, such as `0.5`"

    def parse(self, text: str) -> float:
        """Return the number."""
        if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII) or not float(text):
            raise ValueError("a number of CPUs, such as 0.5")
        return float(text)


@dataclass(frozen=True, slots=True)
class MemorySize:
    """A size of memory."""

    name: str = "size, such as `512M`"

    def parse(self, text: str) -> int:
        """Return the size in bytes."""
        return memory_sizes.parse_size(text)


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable.

    ``aliases`` are other names, which count where this one is not set. ``default`` is for documentation. ``services``
    are those of `docker-compose.yml` whose containers receive it. ``persistent`` tells whether a stack keeps it, as
    text, until `make down`; ``secret`` whether it must not be shown.
    """

    name: str
    type: Type[Any]
    default: str
    meaning: str
    aliases: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    persistent: bool = False
    secret: bool = False

    def read(self, environ: Mapping[str, str]) -> tuple[str, Any] | None:
        """Return the name and the value that the environment has; None where it has none, or an empty one.

        Raises:
            CommandError: naming the variable, its value and what was expected.
        """
        for name in (self.name, *self.aliases):
            if text := environ.get(name):
                return name, parse(name, text, self.type)
        return None


def parse(name: str, text: str, type_: Type[T_co]) -> T_co:
    """Return the value of a variable's text.

    Raises:
        CommandError: naming the variable, its value and what was expected.
    """
    try:
        if not text.isprintable():
            raise ValueError("printable characters")
        return type_.parse(text)
    except ValueError as error:
        raise CommandError(f"{name}={text!r}: expected {error}") from None
