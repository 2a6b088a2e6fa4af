"""`python -m deploy.cli VERB`, the command behind `make VERB`. Arguments are variables, as in `make scale N=3`."""

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
from deploy.backends.choice import choose, used_docker_backend
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
    """The verbs, one per public method. `make help` prints each docstring's first line and its line `make ...`."""

    def __init__(self, layout: Layout, options: Options) -> None:
        self._layout = layout
        self._options = options

    def _backend(self, *, starting: bool = False, full: bool = False) -> Backend:
        return choose(self._layout, self._options, starting=starting, full=full)

    def up(self) -> None:
        """Start replicas, Nginx and Locust, or apply changed settings to the running stack.

        make up [MODEL_URI=] [MODEL_NAME=] [N=1] [HTTP_PORT=80] [LOCUST_PORT=8089]
        """
        self._up(full=False)

    def up_full(self) -> None:
        """Start the same with a registry: MLflow, a database and an object store.

        make up-full [MLFLOW_PORT=5000] [DATABASE_URL=] [S3_ENDPOINT_URL= S3_BUCKET=]
        """
        self._up(full=True)

    def _up(self, *, full: bool) -> None:
        started = time.monotonic()
        stack = self._backend(starting=True, full=full).up(full=full)
        print(f"up in {time.monotonic() - started:.0f} s: {stack.replicas} replica(s) behind Nginx")
        print(f"  service  {stack.address}   {_address_note(stack)}")
        print(f"  Locust   http://127.0.0.1:{stack.locust_port}")
        if stack.full:
            print(f"  MLflow   {mlflow_address(stack)}")
        print(f"  try      {self._curl(stack)}")
        if line := exposure.warning(stack):
            print(f"note: {line}")

    def _curl(self, stack: Stack) -> str:
        """Return a curl command for the user to paste, with the example of the served model."""
        key = client_key(stack, self._options)
        _, index = request_json(stack.address, "GET", "/", access=Access.of(stack, self._layout, key))
        example = json.dumps((index or {}).get("example", {}).get("POST /predict"))
        address, options = _curl_target(stack, self._layout)
        command = ["curl", *options, "-H 'Content-Type: application/json'"]
        command += ['-H "Authorization: Bearer $API_KEY"'] if stack.api_keys_file else []
        return " ".join([*command, f"-d '{example}'", f"{address}/predict"])

    def scale(self) -> None:
        """Change the number of replicas; no request fails.

        make scale N=3
        """
        _print_replicas(self._backend().scale())

    def resources(self) -> None:
        """Change the CPU and memory limits of each replica, and its workers with them.

        make resources CPUS=1 [MEMORY=1G]
        """
        stack = self._backend().resources()
        memory = f" and {stack.memory} of memory" if stack.memory else ""
        print(f"each of {stack.replicas} replica(s) is limited to {stack.cpus:g} CPU(s){memory}")

    def restart(self) -> None:
        """Replace every replica, one after another."""
        _print_replicas(self._backend().restart())

    def status(self) -> None:
        """Show the running services and the model that each replica serves."""
        _print_refusal(self._layout)
        print("\n".join(self._backend().status()))

    def stats(self) -> None:
        """Show the CPU and memory use of each container or program."""
        self._backend().stats()

    def logs(self) -> None:
        """Show the log of a service.

        make logs [S=server|nginx|locust|mlflow|prometheus|..|all]
        """
        _print_refusal(self._layout)
        self._backend().logs()

    def monitoring(self) -> None:
        """Start Prometheus with alerts and Grafana with a dashboard for the running stack.

        make monitoring [PROMETHEUS_PORT=9090] [GRAFANA_PORT=3000]
        """
        for name, address in self._backend().monitoring().items():
            print(f"  {name:<11}{address}")

    def train(self) -> None:
        """Train, check and register a model, and move the alias `champion` to it.

        make train [COVERTYPE_PATH=file.csv.gz] [FOREST=large]
        """
        self._backend(starting=True).train()

    def compile(self) -> None:
        """Compile a model that was trained elsewhere, and register it as a new version.

        make compile MODEL_URI=models:/name@alias [DATA=rows.csv]
        """
        if not self._options.model_uri:
            raise CommandError("MODEL_URI is missing: make compile MODEL_URI=models:/name@alias (or a folder)")
        self._backend(starting=True).compile()

    def promote(self) -> None:
        """Move the alias and every replica to another model version; no request fails.

        make promote VERSION=2 [FORCE=1]
        """
        version = self._options.version
        if not version:
            raise CommandError("VERSION is missing: make promote VERSION=2 (to undo a promotion: make rollback)")
        self._promote(version, force=self._options.force)

    def rollback(self) -> None:
        """Move the alias and every replica back to the previous model version."""
        self._promote(None, force=True)

    def _promote(self, version: str | None, *, force: bool) -> None:
        started = time.monotonic()
        promoted = self._backend().promote(version, force=force)
        print(f"{promoted} is served after {time.monotonic() - started:.0f} s; to undo this: make rollback")

    def build(self) -> None:
        """Build the images for this machine."""
        DockerBackend(self._layout, self._options).build()

    def publish(self) -> None:
        """Build the images for amd64 and arm64, and push them.

        make publish IMAGE=registry/name TAG=v1
        """
        DockerBackend(self._layout, self._options).publish()

    def down(self) -> None:
        """Stop everything and keep the data."""
        self._stop()
        print("down")

    def _stop(self) -> None:
        Record.forget_damaged(self._layout)
        self._backend().down()

    def clean(self) -> None:
        """Stop everything and delete the data: registry, models and logs.

        make clean [YES=1]
        """
        if not self._options.confirmed and not _confirmed(self._layout.var):
            raise CommandError("nothing was deleted; to delete without a question: make clean YES=1")
        self._stop()
        if containers := used_docker_backend(self._layout, self._options):
            containers.delete()
            print("deleted the containers, volumes and images of this checkout")
        os.chdir(ROOT)
        for path in self._layout.contents:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        with suppress(OSError):  # the folder also holds files that are not the stack's
            self._layout.var.rmdir()
        print(f"deleted the data of the stack in {self._layout.var}")


# Verbs that change the stack. Only one of them runs at a time in a checkout.
_CHANGING_VERBS = frozenset(
    {"up", "up-full", "monitoring", "scale", "resources", "restart", "promote", "rollback", "down", "clean"}
)

# Verbs that inspect or stop a stack. They skip invalid settings that they do not need.
_LENIENT_VERBS = frozenset({"status", "stats", "logs", "down", "clean"})

VERBS: Mapping[str, Callable[[Verbs], None]] = {
    name.replace("_", "-"): method
    for name, method in vars(Verbs).items()
    if not name.startswith("_") and callable(method)
}


@contextmanager
def _recording_refusal(layout: Layout, verb: str) -> Iterator[None]:
    """Hold the stack's lock. Store the error of a refused change, for `make status` and `make logs` to print."""
    with locked(layout):
        try:
            yield
        except (CommandError, StartError) as error:
            if layout.var.is_dir():
                layout.refusal.write_text(f"the last make {verb} was refused: {error}\n")
            raise
        layout.refusal.unlink(missing_ok=True)


def _print_refusal(layout: Layout) -> None:
    with suppress(FileNotFoundError):
        print(layout.refusal.read_text(), end="", flush=True)


def _print_replicas(stack: Stack) -> None:
    print(f"{stack.replicas} replica(s) answer at {stack.address}")


def _address_note(stack: Stack) -> str:
    if file := stack.api_keys_file:
        return f"(needs an API key: set API_KEY to a line of {file})"
    return f"(in a browser: {stack.address}/docs)"


def _curl_target(stack: Stack, layout: Layout) -> tuple[str, list[str]]:
    """Return the address for curl, and its options to trust the certificate and to reach a host name in it."""
    if not stack.has_tls:
        return stack.address, []
    parts, names = urlsplit(stack.address), tls.subject_names(layout)
    options = ["--cacert", shlex.quote(stack.tls_cert)]
    if parts.hostname in names or not names:
        return stack.address, options
    host, port = parts.netloc.removesuffix(f":{parts.port}"), parts.port or 443
    name = names[0].replace("*", "www")
    address = f"https://{name}" if port == 443 else f"https://{name}:{port}"
    return address, [*options, "--connect-to", f"{name}:{port}:{host}:{port}"]


def _confirmed(folder: Path) -> bool:
    if not sys.stdin.isatty():
        return False
    return input(f"delete {folder}, with its registry and all trained models? [y/N] ").strip().lower() == "y"


def main(arguments: list[str]) -> int:
    """Run one verb and return the exit status: 1 after an error, of which standard error gets one line."""
    if len(arguments) != 1 or arguments[0] not in VERBS:
        print(f"usage: python -m deploy.cli {{{'|'.join(VERBS)}}}", file=sys.stderr)
        return 2
    verb = arguments[0]
    try:
        variables = read_environment()
        lenient = Options.read_leniently(variables)
        interrupt.listen()
        layout = Layout(lenient.var_dir.resolve())
        with _recording_refusal(layout, verb) if verb in _CHANGING_VERBS else nullcontext():
            VERBS[verb](Verbs(layout, lenient if verb in _LENIENT_VERBS else Options.read(variables)))
        sys.stdout.flush()
    except (CommandError, StartError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except interrupt.Interrupted as error:
        return error.status
    except BrokenPipeError:  # `make status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # such as a full disk, or a VAR_DIR that is not a folder
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
