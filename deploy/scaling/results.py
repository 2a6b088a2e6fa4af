"""A folder of results: ``results/<time>-<name>/``. What was measured is there from the moment it was."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from deploy.errors import CommandError
from deploy.scaling.step import Step, read_steps, write_steps
from deploy.scaling.topology import Topology
from server.system.files import write_atomically

_LAB, _STEPS = "lab.json", "steps.csv"


@dataclass(slots=True)
class Run:
    """One topology up the ladder.

    ``ended`` says why it stopped before the top, and is empty where it did not; a run that is not ``done`` was
    interrupted, or failed.
    """

    topology: Topology
    steps: list[Step] = field(default_factory=list)
    done: bool = False
    ended: str = ""


@dataclass(slots=True)
class Results:
    """What one command measured, and under which conditions.

    ``conditions`` is plain JSON for people and for the report: verb, machine (words), commit, backend, model (name,
    version, engine), user (light, fast or batch), slo (words), ladder (words), started (ISO time), options (the
    variables given), notes (a list of sentences).
    """

    folder: Path
    conditions: dict[str, Any]
    runs: list[Run] = field(default_factory=list)

    @classmethod
    def new(cls, parent: Path, name: str, conditions: Mapping[str, Any]) -> Results:
        """An empty folder named after the time.

        Raises:
            OSError: it cannot be made.
        """
        stem = f"{datetime.now():%Y%m%d-%H%M%S}-{name}"
        folder = next(path for n in range(1000) if not (path := parent / (f"{stem}-{n}" if n else stem)).exists())
        folder.mkdir(parents=True)
        results = cls(folder, dict(conditions))
        results.save()
        return results

    @classmethod
    def load(cls, folder: Path) -> Results:
        """What an earlier command left.

        Raises:
            CommandError: there is nothing of the kind.
        """
        try:
            document = json.loads((folder / _LAB).read_text())
            conditions = _checked(dict(document["conditions"].items()))
            runs = [Run(Topology.parse(one["topology"]), [], one["done"], one["ended"]) for one in document["runs"]]
            steps = read_steps(folder / _STEPS)
        except FileNotFoundError:
            raise CommandError(f"{folder} holds no results of the scaling lab") from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, csv.Error, CommandError) as error:
            raise CommandError(f"{folder} holds no results of the scaling lab: {error}") from None
        for run in runs:
            run.steps = [step for step in steps if step.topology == run.topology.name]
        return cls(folder, conditions, runs)

    def save(self) -> None:
        """Write all of it, each file at once."""
        runs = [{"topology": run.topology.name, "done": run.done, "ended": run.ended} for run in self.runs]
        self._write(_LAB, json.dumps({"conditions": self.conditions, "runs": runs}, indent=1))
        draft = self.folder / f"{_STEPS}.draft"
        write_steps(draft, self.steps)
        draft.rename(self.folder / _STEPS)

    @property
    def steps(self) -> Sequence[Step]:
        """Of all runs."""
        return [step for run in self.runs for step in run.steps]

    def run_folder(self, topology: Topology) -> Path:
        """Where Locust's own files of a run are."""
        folder = self.folder / "runs" / topology.slug
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _write(self, name: str, text: str) -> None:
        write_atomically(self.folder / name, text)


def _checked(conditions: dict[str, Any]) -> dict[str, Any]:
    """As they are, if what is computed with is of its kind.

    Raises:
        ValueError: naming what is not.
    """
    options, notes = conditions.setdefault("options", {}), conditions.setdefault("notes", [])
    if not isinstance(options, dict) or not all(isinstance(value, str) for value in options.values()):
        raise ValueError(f"options {options!r}: expected texts by their names")
    if not isinstance(notes, list):
        raise ValueError(f"notes {notes!r}: expected a list")
    return conditions
