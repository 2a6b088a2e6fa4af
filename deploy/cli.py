"""`python -m deploy.cli VERB`: what `make VERB` runs. Arguments come as variables, as in `make scale N=3`."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from urllib.parse import urlsplit

from deploy.backends.base import Backend
from deploy.backends.choice import choose, containers_used
from deploy.backends.docker.backend import DockerBackend
from deploy.errors import CommandError
from deploy.options import Options, read_environment
from deploy.rollout.replica_client import Access, request_json
from deploy.security import exposure, tls
from deploy.security.api_keys import client_key
from deploy.stack import interrupt
from deploy.stack.lock import locked
from deploy.stack.paths import ROOT, Layout
from deploy.stack.record import Record
from deploy.stack.registry_services import mlflow_address
from deploy.stack.specification import Stack
from server.errors import StartError


class Verbs:
    """One method a verb; `make help` prints the docstring's first line and how the verb is called."""

    def __init__(self, layout: Layout, options: Options) -> None:
        self._layout = layout
        self._options = options

    def _backend(self, *, starting: bool = False, full: bool = False) -> Backend:
        return choose(self._layout, self._options, starting=starting, full=full)

    def up(self) -> None:
        """Start all that it takes to answer a prediction, or change what runs.

        make up [N=1] [HTTP_PORT=80] [LOCUST_PORT=8089]
        """
        self._up(full=False)

    def up_full(self) -> None:
        """Start that with a registry of its own: MLflow, a database and an object store.

        make up-full [MLFLOW_PORT=5000] [DATABASE_URL=] [S3_ENDPOINT_URL= S3_BUCKET=]
        """
        self._up(full=True)

    def _up(self, *, full: bool) -> None:
        started = time.monotonic()
        stack = self._backend(starting=True, full=full).up(full=full)
        print(f"up in {time.monotonic() - started:.0f} s: {stack.replicas} replica(s) behind Nginx")
        print(f"  service  {stack.address}   {_remark(stack)}")
        print(f"  Locust   http://127.0.0.1:{stack.locust_port}")
        if stack.full:
            print(f"  MLflow   {mlflow_address(stack)}")
        print(f"  try      {self._curl(stack)}")
        if line := exposure.warning(stack):
            print(f"note: {line}")

    def _curl(self, stack: Stack) -> str:
        """A command to paste, with the model's own example."""
        key = client_key(stack, self._options)
        _, index = request_json(stack.address, "GET", "/", access=Access.of(stack, self._layout, key))
        example = json.dumps((index or {}).get("example", {}).get("POST /predict"))
        address, options = _place(stack, self._layout)
        words = ["curl", *options, "-H 'Content-Type: application/json'"]
        words += ['-H "Authorization: Bearer $API_KEY"'] if stack.api_keys_file else []
        return " ".join([*words, f"-d '{example}'", f"{address}/predict"])

    def scale(self) -> None:
        """Change the number of replicas; no request fails meanwhile.

        make scale N=3
        """
        _say(self._backend().scale())

    def resources(self) -> None:
        """Change what each replica may use, with as many workers as CPUs.

        make resources CPUS=1 [MEMORY=1G]
        """
        stack = self._backend().resources()
        memory = f" and {stack.memory} of memory" if stack.memory else ""
        print(f"each of {stack.replicas} replica(s) is held to {stack.cpus:g} CPU(s){memory}")

    def restart(self) -> None:
        """Replace every replica, one after another."""
        _say(self._backend().restart())

    def status(self) -> None:
        """Show what runs, with which model."""
        _tell_refusal(self._layout)
        print("\n".join(self._backend().status()))

    def stats(self) -> None:
        """Show CPU and memory of each container or program."""
        self._backend().stats()

    def logs(self) -> None:
        """Show what a service printed.

        make logs [S=server|nginx|locust|mlflow|prometheus|..|all]
        """
        _tell_refusal(self._layout)
        self._backend().logs()

    def monitoring(self) -> None:
        """Watch the stack that is up: Prometheus with its alerts, Grafana with a dashboard.

        make monitoring [PROMETHEUS_PORT=9090] [GRAFANA_PORT=3000]
        """
        for name, address in self._backend().monitoring().items():
            print(f"  {name:<11}{address}")

    def train(self) -> None:
        """Train, check and register a model, and make it the champion.

        make train [COVERTYPE_PATH=file.csv.gz] [FOREST=large]
        """
        self._backend(starting=True).train()

    def compile(self) -> None:
        """Give a model that was trained elsewhere a compiled form, as a new version.

        make compile MODEL_URI=models:/name@alias [DATA=rows.csv]
        """
        if not self._options.model_uri:
            raise CommandError("MODEL_URI is missing: make compile MODEL_URI=models:/name@alias (or a folder)")
        self._backend(starting=True).compile()

    def promote(self) -> None:
        """Move the alias to another version, and every replica with it; no request fails meanwhile.

        make promote VERSION=2 [FORCE=1]
        """
        version = self._options.version
        if not version:
            raise CommandError("VERSION is missing: make promote VERSION=2 (make rollback goes back)")
        self._promote(version, force=self._options.force)

    def rollback(self) -> None:
        """Move back to the version before."""
        self._promote(None, force=True)

    def _promote(self, version: str | None, *, force: bool) -> None:
        started = time.monotonic()
        promoted = self._backend().promote(version, force=force)
        print(f"{promoted} is served, {time.monotonic() - started:.0f} s later; make rollback goes back")

    def build(self) -> None:
        """Build the images for this machine."""
        DockerBackend(self._layout, self._options).build()

    def publish(self) -> None:
        """Build the images for amd64 and arm64, and push them.

        make publish IMAGE=registry/name TAG=v1
        """
        DockerBackend(self._layout, self._options).publish()

    def down(self) -> None:
        """Stop everything; the data stays."""
        self._stop()
        print("down")

    def _stop(self) -> None:
        Record.forget_damaged(self._layout)
        self._backend().down()

    def clean(self) -> None:
        """Stop everything and delete the stack's data: its registry, models and logs.

        make clean [YES=1]
        """
        if not self._options.confirmed and not _confirmed(self._layout.var):
            raise CommandError("nothing was deleted; make clean YES=1 does not ask")
        self._stop()
        if containers := containers_used(self._layout, self._options):
            containers.delete()
            print("deleted the containers, volumes and images of this checkout")
        os.chdir(ROOT)
        for path in self._layout.contents:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        with suppress(OSError):  # somebody else keeps something there
            self._layout.var.rmdir()
        print(f"deleted what the stack kept in {self._layout.var}")


# Verbs that change what runs: one at a time in a checkout.
_CHANGING = frozenset(
    {"up", "up-full", "monitoring", "scale", "resources", "restart", "promote", "rollback", "down", "clean"}
)

# Verbs that look at a stack or stop it: they work whatever other settings are wrong.
_LENIENT = frozenset({"status", "stats", "logs", "down", "clean"})

VERBS: Mapping[str, Callable[[Verbs], None]] = {
    name.replace("_", "-"): method
    for name, method in vars(Verbs).items()
    if not name.startswith("_") and callable(method)
}


@contextmanager
def _remembered(layout: Layout, verb: str) -> Iterator[None]:
    """Change the stack alone, and keep why that was refused for those who look at it later."""
    with locked(layout):
        try:
            yield
        except (CommandError, StartError) as error:
            if layout.var.is_dir():
                layout.refusal.write_text(f"the last make {verb} was refused: {error}\n")
            raise
        layout.refusal.unlink(missing_ok=True)


def _tell_refusal(layout: Layout) -> None:
    with suppress(FileNotFoundError):
        print(layout.refusal.read_text(), end="", flush=True)


def _say(stack: Stack) -> None:
    print(f"{stack.replicas} replica(s) answer at {stack.address}")


def _remark(stack: Stack) -> str:
    """What to know of its address: a browser has no way to send a key."""
    if file := stack.api_keys_file:
        return f"(with a key: API_KEY=, a line of {file})"
    return f"(pages for people: {stack.address}/docs)"


def _place(stack: Stack, layout: Layout) -> tuple[str, list[str]]:
    """Where curl is to ask, and how it knows the service: by its certificate, and by a name in that."""
    if not stack.has_tls:
        return stack.address, []
    place, names = urlsplit(stack.address), tls.subject_names(layout)
    options = ["--cacert", shlex.quote(stack.tls_cert)]
    if place.hostname in names or not names:
        return stack.address, options
    host, port = place.netloc.removesuffix(f":{place.port}"), place.port or 443
    name = names[0].replace("*", "www")
    address = f"https://{name}" if port == 443 else f"https://{name}:{port}"
    return address, [*options, "--connect-to", f"{name}:{port}:{host}:{port}"]


def _confirmed(folder: Path) -> bool:
    if not sys.stdin.isatty():
        return False
    return input(f"delete {folder}, with its registry and all trained models? [y/N] ").strip().lower() == "y"


def main(arguments: list[str]) -> int:
    """Run one verb. The status is 1, with one line on standard error, where it could not do what was asked."""
    if len(arguments) != 1 or arguments[0] not in VERBS:
        print(f"usage: python -m deploy.cli {{{'|'.join(VERBS)}}}", file=sys.stderr)
        return 2
    verb = arguments[0]
    try:
        variables = read_environment()
        lenient = Options.read_leniently(variables)
        interrupt.listen()
        layout = Layout(lenient.var_dir.resolve())
        with _remembered(layout, verb) if verb in _CHANGING else nullcontext():
            VERBS[verb](Verbs(layout, lenient if verb in _LENIENT else Options.read(variables)))
        sys.stdout.flush()
    except (CommandError, StartError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except interrupt.Interrupted as error:
        return error.status
    except BrokenPipeError:  # `make status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a full disk, a VAR_DIR that is no folder, ..
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
