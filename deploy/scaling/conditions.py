"""Under which conditions it was measured, for people."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from deploy.scaling.slo import Slo

_FIRST = ("verb", "machine", "commit", "backend", "model", "user", "slo", "ladder", "started")
_NAMES = {"slo": "SLO", "user": "generator's user", "verb": "command"}
_BOUND = r"{} < (\d+(?:\.\d+)?(?:e\+?\d+)?)"


def rows(conditions: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A name and its words each, the known ones first; not the notes and the answer, which have their own places."""
    told = {"verb": command(conditions)}
    names = [*_FIRST, *(name for name in conditions if name not in {*_FIRST, "options", "notes", "answer"})]
    found = [(_NAMES.get(name, name), told.get(name) or _words(conditions.get(name))) for name in names]
    return [(name, words) for name, words in found if words]


def command(conditions: Mapping[str, Any]) -> str:
    """The line that measured it, to be typed again."""
    options = conditions.get("options") or {}
    given = (
        [f"{name}={shlex.quote(str(value))}" for name, value in options.items()]
        if isinstance(options, Mapping)
        else [str(options)]
    )
    return " ".join(["make", str(conditions["verb"]), *given]) if conditions.get("verb") else ""


def notes(conditions: Mapping[str, Any]) -> list[str]:
    """What was worth a sentence while it was measured."""
    return [str(note) for note in conditions.get("notes") or []]


def objective(conditions: Mapping[str, Any]) -> Slo:
    """The bounds out of the words that :class:`Slo` says itself with; the usual ones for what they do not tell."""
    words, usual = str(conditions.get("slo") or ""), Slo()
    return Slo(
        _bound(words, "P95", usual.p95_ms),
        _bound(words, "failures", usual.failure_percent),
        _bound(words, "CPU", usual.cpu_percent),
        _bound(words, "memory", usual.memory_percent),
    )


def _bound(words: str, name: str, usual: float) -> float:
    match = re.search(_BOUND.format(name), words)
    return float(match[1]) if match else usual


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(one)}" for name, one in value.items() if one not in (None, ""))
    if isinstance(value, list | tuple):
        return ", ".join(_words(one) for one in value)
    return "" if value is None else str(value)
