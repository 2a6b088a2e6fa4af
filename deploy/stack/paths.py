"""Paths on this machine: the checkout, its ``var/``, and the files of a stack in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deploy.variable_types import FilePath, parse
from server.settings import ROOT

__all__ = ["ROOT", "Layout", "parse_path"]


def parse_path(name: str, value: str) -> Path:
    """Return the value of a variable as an absolute path; a relative one starts at the checkout.

    Raises:
        CommandError: the path starts with ``~user``, and this user does not exist.
    """
    return parse(name, value, FilePath())


@dataclass(frozen=True, slots=True)
class Layout:
    """The files and folders of a stack, all of them in ``var``, so that checkouts share nothing.

    Every process of the stack has ``var`` as its working directory. So the paths of sockets are relative and short even
    in a deep checkout: the path of a Unix socket can have at most 107 bytes.
    """

    var: Path

    @property
    def logs(self) -> Path:
        """The folder of logs, with one file per program."""
        return self.var / "log"

    @property
    def run(self) -> Path:
        """The folder of sockets and PID files."""
        return self.var / "run"

    @property
    def programs(self) -> Path:
        """The folder of supervisord's configuration, with one file per program."""
        return self.var / "programs"

    @property
    def state(self) -> Path:
        """The record of the running stack; see :mod:`deploy.stack.record`."""
        return self.var / "stack.json"

    @property
    def tls(self) -> Path:
        """The folder of the certificate and key that Nginx reads."""
        return self.var / "tls"

    @property
    def tls_cert(self) -> Path:
        """The copy of TLS_CERT that Nginx reads: a certificate, with its chain if it has one."""
        return self.tls / "tls.crt"

    @property
    def tls_key(self) -> Path:
        """The copy of TLS_KEY that Nginx reads."""
        return self.tls / "tls.key"

    @property
    def client_key(self) -> Path:
        """The file of the API key that the local backend gives to Locust."""
        return self.run / "api-key"

    def delete_stack_files(self) -> None:
        """Delete the record of the stack and its secrets, after it is down."""
        for path in (self.state, self.tls_cert, self.tls_key, self.client_key):
            path.unlink(missing_ok=True)

    @property
    def project(self) -> Path:
        """The file with the name of this checkout's Compose project, whose volumes remain after its containers."""
        return self.var / "compose-project"

    @property
    def refusal(self) -> Path:
        """The file with the reason why the last change was refused; the stack then runs on unchanged."""
        return self.var / "refusal.txt"

    @property
    def contents(self) -> list[Path]:
        """The existing files and folders in ``var`` that a stack, its registry and its training write."""
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
        """Create the folders that the programs expect, closed to other users, since settings can contain passwords."""
        self.var.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.logs, self.run, self.programs, self.var / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        # ``var`` may have existed before, open to other users.
        self.programs.chmod(0o700)

    def log(self, program: str) -> Path:
        """Return the path of a program's log."""
        return self.logs / f"{program}.log"
