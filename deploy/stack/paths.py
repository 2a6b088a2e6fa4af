"""Where things are on this machine: the checkout, its ``var/``, and the files of one stack in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deploy.variable_types import FilePath, parse
from server.settings import ROOT

__all__ = ["ROOT", "Layout", "parse_path"]


def parse_path(name: str, value: str) -> Path:
    """Return the path that a variable gives, from the checkout if it is a relative one.

    Raises:
        CommandError: it begins with the home of somebody who is not known.
    """
    return parse(name, value, FilePath())


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one stack, all under ``var``. Two checkouts have two of these and share nothing.

    Every process of the stack runs with ``var`` as its working directory, so that socket paths are short and relative
    however deep the checkout is: a Unix socket's path may have 107 bytes.
    """

    var: Path

    @property
    def logs(self) -> Path:
        """One file a program."""
        return self.var / "log"

    @property
    def run(self) -> Path:
        """Sockets and process ids."""
        return self.var / "run"

    @property
    def programs(self) -> Path:
        """One file a supervised program."""
        return self.var / "programs"

    @property
    def state(self) -> Path:
        """What the running stack was asked to be."""
        return self.var / "stack.json"

    @property
    def tls(self) -> Path:
        """The certificate that Nginx shows, and its key."""
        return self.var / "tls"

    @property
    def tls_cert(self) -> Path:
        """The certificate, with what leads to its authority."""
        return self.tls / "tls.crt"

    @property
    def tls_key(self) -> Path:
        """Its key."""
        return self.tls / "tls.key"

    @property
    def client_key(self) -> Path:
        """The API key that Locust's page sends, where the stack runs locally."""
        return self.run / "api-key"

    def delete_stack_files(self) -> None:
        """What a stack that is down leaves nothing of: its record, its key to its certificate."""
        for path in (self.state, self.tls_cert, self.tls_key, self.client_key):
            path.unlink(missing_ok=True)

    @property
    def project(self) -> Path:
        """The name of the Compose project that this checkout has used: its volumes outlive its containers."""
        return self.var / "compose-project"

    @property
    def refusal(self) -> Path:
        """Why the last change was refused, if it was: what ran before then runs on, and nothing else would tell."""
        return self.var / "refusal.txt"

    @property
    def contents(self) -> list[Path]:
        """All that a stack, its registry and its training ever write here."""
        folders = ["log", "run", "programs", "tmp", "nginx", "tls", "models", "data", "mlartifacts"]
        files = [
            "mlflow.db",
            "stack.json",
            "supervisord.conf",
            "refusal.txt",
            "compose-project",
            "calibration.json",
            ".lock",
            ".lab",
        ]
        return [self.var / name for name in folders + files if (self.var / name).exists()]

    def make(self) -> None:
        """Create the folders that the programs expect; a setting may hold a password, so nobody else looks in."""
        self.var.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.logs, self.run, self.programs, self.var / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        # ``var`` may have been there before, open to others.
        self.programs.chmod(0o700)

    def log(self, program: str) -> Path:
        """What a program printed."""
        return self.logs / f"{program}.log"
