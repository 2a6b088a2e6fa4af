"""What the scaling lab needs of the local backend: a generator beside the replicas, Nginx's log, the statistics."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from deploy.backends.base import Backend
from deploy.backends.local.file_limits import raise_file_limit
from deploy.backends.local.supervisord import Supervisord
from deploy.errors import CommandError
from deploy.options import Options
from deploy.scaling.adapters.local_statistics import Statistics
from deploy.scaling.generator import Generator, Load
from deploy.scaling.ladder import Ladder
from deploy.scaling.placement import Placement
from deploy.scaling.usage import Reading
from deploy.security.api_keys import client_key
from deploy.stack import ports
from deploy.stack.paths import ROOT, Layout
from deploy.stack.specification import Stack
from server.system.platform import usable_cpus

# Bytes that each process of the generator may hold: one without a limit froze the machine that it measured.
_MEMORY = 2 << 30


class LocalAdapter:
    """A stack of local processes as the lab uses it."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def cpus(self) -> list[int]:
        """Return the numbers of the CPUs that this process may use."""
        return usable_cpus()

    def open_files(self) -> int:
        """Return how many files a process of Nginx may open, after raising this process's limit as far as it goes."""
        return raise_file_limit()

    def lab(self, layout: Layout, stack: Stack, options: Options) -> LocalLab:
        """Return what measures this stack."""
        return LocalLab(layout, stack, options)


class LocalLab:
    """The lab on one local stack."""

    def __init__(self, layout: Layout, stack: Stack, options: Options) -> None:
        self._layout = layout
        self._stack = stack
        self._options = options

    def log_command(self) -> list[str]:
        """What prints Nginx's log from now on, through its rotation."""
        return ["tail", "--lines=0", "-F", str(self._layout.log("access"))]

    def generator(self, load: Load, ladder: Ladder, folder: Path, placement: Placement) -> Generator:
        """Locust as a process of its own, on the CPUs that the replicas leave."""
        locustfile = str(ROOT / "locust/locustfile.py")
        arguments = load.arguments(ladder, self._stack.address, locustfile, str(folder), self._data())
        # Locust's own port for its workers is one for the whole machine.
        port = str(ports.find_free())
        arguments += ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]
        # It ends with this process, whatever ends that.
        limits = ["setpriv", "--pdeathsig", "TERM", "prlimit", f"--data={_MEMORY}"]
        if placement.generator:
            limits = ["taskset", "--cpu-list", placement.generator, *limits]
        command = [*limits, str(Path(sys.executable).parent / "locust"), *arguments]
        access = {"TLS_CERT": str(self._layout.tls_cert) if self._stack.has_tls else ""}
        access |= {"API_KEY": client_key(self._stack, self._options), "API_KEY_FILE": ""}
        environ = {**self._options.environment, **access}
        return Generator(command, folder / "locust.log", subprocess.Popen.terminate, environ)

    def reader(self, generator: Generator) -> Callable[[], list[Reading]]:
        """The kernel's own counts."""
        cpus = self._stack.cpus
        return Statistics(Supervisord(self._layout), cpus, lambda: [generator.pid]).read

    def clear(self) -> None:
        """Nothing is left behind: the generator is a child of this process."""

    def _data(self) -> str:
        path = self._options.data
        if path and not path.is_file():
            raise CommandError(f"DATA={str(path)!r}: there is no such file")
        return str(path or "")
