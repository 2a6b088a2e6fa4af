"""Types of the variables that configure a command: each turns a text into a value or an error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from deploy.errors import CommandError
from server.settings import ROOT, parse_model_name
from server.system import memory_sizes

T_co = TypeVar("T_co", covariant=True)


class Type(Protocol[T_co]):
    """The type of a variable, which parses the variable's text."""

    @property
    def name(self) -> str:
        """The name of the type in docs/settings.md."""
        ...

    def parse(self, text: str) -> T_co:
        """Return the value of a text that is not empty.

        Raises:
            ValueError: the text is invalid; the message says what was expected.
        """
        ...


@dataclass(frozen=True, slots=True)
class Text:
    """A variable that takes any printable text."""

    name: str = "text"

    def parse(self, text: str) -> str:
        """Return the text unchanged."""
        return text


@dataclass(frozen=True, slots=True)
class WholeNumber:
    """A whole number in a range, both ends included."""

    minimum: int
    maximum: int

    @property
    def name(self) -> str:
        """The range, as docs/settings.md shows it."""
        return f"{self.minimum} to {self.maximum:,}"

    def parse(self, text: str) -> int:
        """Return the number of a text that consists of ASCII digits."""
        digits = text.isascii() and text.isdigit() and len(text) < 20
        if not digits or not self.minimum <= int(text) <= self.maximum:
            raise ValueError(f"a whole number from {self.minimum} to {self.maximum}")
        return int(text)


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model's name, which is a segment of URL paths."""

    name: str = "name"

    def parse(self, text: str) -> str:
        """Return the text unchanged."""
        return parse_model_name(text)


@dataclass(frozen=True, slots=True)
class OneOf:
    """One value out of a fixed set of choices."""

    choices: tuple[str, ...]

    @property
    def name(self) -> str:
        """The choices, as docs/settings.md shows them."""
        return ", ".join(f"`{choice}`" for choice in self.choices)

    def parse(self, text: str) -> str:
        """Return the text if it is one of the choices."""
        if text not in self.choices:
            raise ValueError(f"one of {', '.join(self.choices)}")
        return text


@dataclass(frozen=True, slots=True)
class ListOf:
    """Values out of a fixed set of choices, separated by spaces."""

    choices: tuple[str, ...]

    @property
    def name(self) -> str:
        """The choices, as docs/settings.md shows them."""
        return "list of " + ", ".join(f"`{choice}`" for choice in self.choices)

    def parse(self, text: str) -> tuple[str, ...]:
        """Return the chosen values in the order given."""
        chosen = tuple(text.split())
        if not set(chosen) <= set(self.choices):
            raise ValueError(f"a list of {', '.join(self.choices)}")
        return chosen


@dataclass(frozen=True, slots=True)
class NumberList:
    """Whole numbers from 1 to a maximum, separated by spaces; a repeated number counts once."""

    maximum: int
    name: str = "list of whole numbers"

    def parse(self, text: str) -> tuple[int, ...]:
        """Return the numbers in the order given."""
        try:
            numbers = dict.fromkeys(map(WholeNumber(1, self.maximum).parse, text.split()))
        except ValueError:
            numbers = {}
        if not numbers:
            raise ValueError(f"whole numbers from 1 to {self.maximum} separated by spaces")
        return tuple(numbers)


@dataclass(frozen=True, slots=True)
class Switch:
    """A switch: ``1`` turns it on, ``0`` off."""

    name: str = "`0` or `1`"

    def parse(self, text: str) -> bool:
        """Return whether the switch is on."""
        if text not in ("0", "1"):
            raise ValueError("0 or 1")
        return text == "1"


@dataclass(frozen=True, slots=True)
class FilePath:
    """A path; a relative one starts at the checkout. Symbolic links stay, since their targets may change."""

    name: str = "path"

    def parse(self, text: str) -> Path:
        """Return the absolute path, with ``~`` expanded."""
        try:
            return ROOT / Path(text).expanduser()
        except RuntimeError:
            raise ValueError("a path; the user named after ~ does not exist") from None


@dataclass(frozen=True, slots=True)
class Amount(Generic[T_co]):
    """An amount with its variable's name and text, for messages of the backend that finds it unsuitable."""

    variable: str
    text: str
    value: T_co


@dataclass(frozen=True, slots=True)
class CpuCount:
    """A positive number of CPUs, such as ``0.5``."""

    name: str = "number of CPUs, such as `0.5`"

    def parse(self, text: str) -> float:
        """Return the number of CPUs."""
        if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII) or not float(text):
            raise ValueError("a number of CPUs, such as 0.5")
        return float(text)


@dataclass(frozen=True, slots=True)
class MemorySize:
    """A size of memory, such as ``512M`` or ``1.5G``."""

    name: str = "size, such as `512M`"

    def parse(self, text: str) -> int:
        """Return the size in bytes."""
        return memory_sizes.parse_size(text)


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable that users can set.

    ``aliases`` are other names, read if this one is not set. ``default`` and ``meaning`` are texts of docs/settings.md.
    ``services`` are those of `docker-compose.yml` whose containers receive the variable. ``persistent`` tells whether
    a stack keeps its text until `make down`, ``secret`` whether it must not be shown.
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
        """Return the name that is set, which may be an alias, and its value; None if neither is set to a text.

        Raises:
            CommandError: the value is invalid; the message names the variable, its value and what was expected.
        """
        for name in (self.name, *self.aliases):
            if text := environ.get(name):
                return name, parse(name, text, self.type)
        return None


def parse(name: str, text: str, type_: Type[T_co]) -> T_co:
    """Return the value of a variable's text.

    Raises:
        CommandError: the text is invalid; the message names the variable, its text and what was expected.
    """
    try:
        if not text.isprintable():
            raise ValueError("printable characters")
        return type_.parse(text)
    except ValueError as error:
        raise CommandError(f"{name}={text!r}: expected {error}") from None
