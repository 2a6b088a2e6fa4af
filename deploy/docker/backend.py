"""The verbs on the container backend. Each computes what should run and lets the engine converge to it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace

from deploy import ports, probe
from deploy.docker import images, provider, registry
from deploy.docker.engine import SERVICES, Compose, Container, docker, image_id, inspect, is_local
from deploy.docker.promotion import ContainerRegistrar, ContainerReplica
from deploy.docker.reasons import reason
from deploy.docker.topology import DEFAULT, asked, data, file, limited, variables
from deploy.docker.watch import become_stats, show_logs, status
from deploy.errors import CommandError
from deploy.layout import ROOT, Layout
from deploy.promotion import Version, promote, settle
from deploy.registry import MLFLOW, OBJECT_STORE
from deploy.registry import asked as with_registry
from deploy.stack import MOST, Stack
from server.resolve import local_folder

# Seconds that a container may take from its start to its first answer, on a small part of a CPU.
_READY_TIMEOUT = 300
# Seconds in which Nginx is to have met new replicas: it asks for their addresses every second.
_INTRODUCTION = 10


class DockerBackend:
    """One Compose project: that of this checkout, unless COMPOSE_PROJECT_NAME says otherwise."""

    name = "docker"

    def __init__(self, layout: Layout, environ: Mapping[str, str]) -> None:
        self._layout = layout
        self._environ = environ
        layout.make()

    def up(self, *, full: bool = False) -> Stack:
        """Run what was asked for and answer a prediction through Nginx; again, and it converges.

        Raises:
            CommandError: it cannot; what this call started is stopped again.
        """
        before = self._running()
        stack = asked(before or DEFAULT, self._environ)
        stack = with_registry(stack, self._environ, registry.ADDRESS, full=full)
        self._environ = registry.secrets(stack, self._environ)
        compose = self._claim(stack, data(self._environ))
        self._place(stack, before)
        self._get_images(compose, stack)
        # What runs stays as it is if there is no model; from nothing, nothing is left.
        undone = nullcontext() if before else self._undone_on_failure(None)
        with undone, registry.stopped_on_failure(compose, stack, before):
            self._start_registry(compose, stack, before)
            stack = stack.serving(provider.provide(compose))
        with self._undone_on_failure(before), _taken_back_on_failure(compose):
            self._converge(stack)
            self._predict(stack)
        return stack

    def scale(self) -> Stack:
        """Another number of replicas; no request fails meanwhile."""
        before = self._require_running()
        if not self._environ.get("N"):
            raise CommandError(f"N is missing: make scale N=3 (a whole number from 1 to {MOST['docker']})")
        return self._changed(before, before.changed({"N": self._environ["N"]}))

    def resources(self) -> Stack:
        """Hold each replica to CPUs and memory: new ones take over from the old, one by one."""
        before = self._require_running()
        if not (self._environ.get("CPUS") or self._environ.get("MEMORY")):
            raise CommandError("CPUS and MEMORY are missing: make resources CPUS=0.5 MEMORY=512M (one of them will do)")
        return self._changed(before, limited(before, self._environ))

    def become(self, stack: Stack) -> Stack:
        """Run exactly this stack, of the images and the model that are there."""
        return self._changed(self._require_running(), stack)

    def restart(self) -> Stack:
        """New replicas take over one by one, with the model that the registry has now."""
        before = self._require_running()
        compose = self._compose(before, data(self._environ))
        stack = replace(before, model=provider.provide(compose), promoted="")
        with self._undone_on_failure(before), _taken_back_on_failure(compose):
            self._converge(stack, anew=True)
        return stack

    def promote(self, version: str | None, *, force: bool) -> Version:
        """Every replica reloads, one after another, to another version of the model."""
        before = self._running()
        stack = before or asked(DEFAULT, self._environ)
        compose = self._claim(stack)
        if before is None:
            self._get_images(compose, stack)
        replicas = [ContainerReplica(container, compose) for container in compose.containers("server")]
        patience = stack.settings(self._layout).graceful_timeout
        promoted = promote(replicas, ContainerRegistrar(compose), version, force=force, patience=patience)
        if before is not None:
            replace(before, promoted=provider.identity(promoted.digest, promoted.number)).save(self._layout)
            settle(before.address, promoted, before.replicas)
        return promoted

    def train(self) -> None:
        """Fit, check and register a model in the stack's registry."""
        stack = self._running() or asked(DEFAULT, self._environ)
        compose = self._claim(stack, data(self._environ))
        self._get_images(compose, stack)
        provider.train(compose)

    def compile(self) -> None:
        """Give a model a compiled form, in the stack's registry or beside its folder."""
        stack = asked(self._running() or DEFAULT, self._environ)
        rows = file("DATA", self._environ)
        compose = self._claim(stack, data(self._environ))
        self._get_images(compose, stack)
        folder = local_folder(stack.environment.get("MODEL_URI", "models:/"))
        provider.compile_model(compose, folder, rows, self._environ.get("ENGINE", ""))

    def record(self, document: str) -> None:
        """Log measured runs in the stack's registry."""
        provider.record(self._compose(self._running() or asked(DEFAULT, self._environ)), document)

    def build(self) -> None:
        """Build the images for this machine."""
        compose = self._compose(replace(asked(DEFAULT, self._environ), full=True))
        if why := images.missing([OBJECT_STORE]):
            raise CommandError(why)
        images.build(compose)
        for image, size in images.sizes(compose):
            print(f"{image}  {size / 1e6:.0f} MB")

    def publish(self) -> None:
        """Build the images for every platform and push them."""
        images.publish(self._compose(replace(asked(DEFAULT, self._environ), full=True)), self._environ)

    def status(self) -> list[str]:
        """A line a container, and what is wrong with those that are not well."""
        stack = self._require_running()
        return status(stack, self._compose(stack))

    def stats(self) -> None:
        """Become `docker stats`."""
        become_stats(self._compose(self._require_running()))

    def logs(self) -> None:
        """What a service printed."""
        show_logs(self._compose(self._running() or DEFAULT), self._environ.get("S") or "server")

    def down(self) -> None:
        """Stop and remove every container of this stack; its volumes stay."""
        self._claim(replace(self._running() or DEFAULT, full=True)).run("down", "--remove-orphans")
        self._layout.state.unlink(missing_ok=True)

    def delete(self) -> None:
        """The volumes too, the registry and the models, and the images that were built here."""
        compose = self._claim(replace(DEFAULT, full=True))
        compose.run("down", "--remove-orphans", "--volumes")
        images.remove(compose)

    @property
    def is_there(self) -> bool:
        """Whether this checkout's project has containers, whoever started them."""
        return bool(self._found(DEFAULT))

    def _running(self) -> Stack | None:
        """What `make up` was asked for; for containers that Compose itself started, what it goes by."""
        stack = Stack.load(self._layout)
        if stack is not None:
            return stack
        stack = asked(DEFAULT, self._environ)
        found = self._found(stack)
        replicas = sum(container.service == "server" for container in found)
        full = any(container.service == MLFLOW for container in found)
        stack = with_registry(stack, self._environ, registry.ADDRESS, full=full)
        return replace(stack, replicas=max(1, replicas)) if found else None

    def _found(self, stack: Stack) -> list[Container]:
        return [one for one in self._compose(stack).containers() if one.folder == str(ROOT)]

    def _require_running(self) -> Stack:
        stack = self._running()
        if stack is None:
            raise CommandError("nothing is running here; start it with: make up")
        return stack

    def _compose(self, stack: Stack, more: Mapping[str, str] | None = None) -> Compose:
        chosen = variables(stack) | registry.variables(stack, self._environ) | dict(more or {})
        chosen["SOURCE"] = self._environ.get("SOURCE") or images.source()
        if project := self._environ.get("COMPOSE_PROJECT_NAME"):
            chosen["COMPOSE_PROJECT_NAME"] = project
        digest = Compose(chosen).digest("server")
        return Compose(chosen | {"CONFIG_DIGEST": f"{digest}-{stack.model}"})

    def _claim(self, stack: Stack, more: Mapping[str, str] | None = None) -> Compose:
        """The project, which from now on is this checkout's, so that `make clean` may delete its volumes.

        Raises:
            CommandError: it is another checkout's.
        """
        compose = self._compose(stack, more)
        name = compose.config()["name"]
        folders = {container.folder for container in compose.containers()} - {str(ROOT), ""}
        if folders:
            raise CommandError(
                f"a stack of {folders.pop()} runs as the Compose project {name!r}; "
                f"choose another name with COMPOSE_PROJECT_NAME="
            )
        self._layout.project.write_text(f"{name}\n")
        return compose

    def _place(self, stack: Stack, before: Stack | None) -> None:
        """Refuse ports that somebody else listens on, before anything is built."""
        if stack.locust_port == stack.http_port:
            raise CommandError(f"LOCUST_PORT={stack.locust_port}: Nginx listens there already; expected another port")
        if not is_local():
            return
        if before is None or (stack.http_host, stack.http_port) != (before.http_host, before.http_port):
            ports.check_unused(stack.http_host, stack.http_port or 80, "HTTP_PORT")
        if before is None or stack.locust_port != before.locust_port:
            ports.check_unused("127.0.0.1", stack.locust_port, "LOCUST_PORT")
        if stack.full and (before is None or not before.full or stack.mlflow_port != before.mlflow_port):
            ports.check_unused("127.0.0.1", stack.mlflow_port, "MLFLOW_PORT")

    def _start_registry(self, compose: Compose, stack: Stack, before: Stack | None) -> None:
        """The stack's own registry, if it has one. What has been served goes on being so without it."""
        try:
            registry.up(compose, stack)
        except CommandError as error:
            if before is None or not before.full:
                raise
            print(f"note: the registry did not come up, so that the last good copy is served: {error}", flush=True)

    def _get_images(self, compose: Compose, stack: Stack) -> None:
        """Built from this checkout, unless IMAGE names published ones."""
        (images.pull if stack.environment.get("IMAGE") else images.build)(compose)

    @contextmanager
    def _undone_on_failure(self, before: Stack | None) -> Iterator[None]:
        """Leave nothing half-started: go back to what ran before, or to nothing."""
        try:
            yield
        except BaseException:
            with suppress(CommandError):  # the reason is the first one
                if before is None:
                    self.down()
                else:
                    self._converge(before)
            raise

    def _changed(self, before: Stack, stack: Stack) -> Stack:
        with self._undone_on_failure(before):
            self._converge(stack)
        return stack

    def _converge(self, stack: Stack, *, anew: bool = False) -> None:
        """Make the engine run exactly this. A new replica is ready, and known to Nginx, before an old one goes.

        Raises:
            CommandError: a container did not start, with its reason.
        """
        compose = self._compose(stack)
        fresh, old = self._sorted(compose, anew=anew)
        while len(fresh) < stack.replicas:
            # One at a time while there are old ones: the machine may have no room for twice as many.
            fresh += self._start(compose, stack, 1 if old else stack.replicas - len(fresh))
            _stop(old[:1])
            old = old[1:]
        compose.run("up", "--detach", "--no-deps", "--no-build", *SERVICES[1:])
        self._wait_ready(compose, [one.id for one in compose.containers() if one.service in SERVICES[1:]])
        self._wait_ready(compose, [container.id for container in fresh])
        stack.save(self._layout)
        self._introduce(stack, fresh)
        _stop(old + fresh[stack.replicas :])

    def _sorted(self, compose: Compose, *, anew: bool) -> tuple[list[Container], list[Container]]:
        """The replicas that are as they should be, and those that are not."""
        config = compose.config()["services"]["server"]
        wanted = (config["labels"]["forkcast.config"], image_id(config["image"]))
        fresh: list[Container] = []
        old: list[Container] = []
        for container in compose.containers("server"):
            # One that Docker is still starting counts: it is waited for.
            hopeful = container.well or (container.state == "running" and not container.failed)
            good = not anew and hopeful and (container.config, container.image) == wanted
            (fresh if good else old).append(container)
        return fresh, old

    def _start(self, compose: Compose, stack: Stack, count: int) -> list[Container]:
        """As many replicas more, ready and known to Nginx; none where one of them does not start."""
        before = {container.id for container in compose.containers("server")}
        try:
            total = len(before) + count
            compose.run(
                "up", "--detach", "--no-deps", "--no-build", "--no-recreate", "--scale", f"server={total}", "server"
            )
            started = self._added(compose, before)
            if not started:
                raise CommandError(f"the engine made no replica beside the {len(before)} that there are")
            self._wait_ready(compose, [container.id for container in started])
        except BaseException:
            _stop(self._added(compose, before))
            raise
        self._introduce(stack, started)
        return started

    def _added(self, compose: Compose, before: set[str]) -> list[Container]:
        return [container for container in compose.containers("server") if container.id not in before]

    def _wait_ready(self, compose: Compose, ids: Sequence[str]) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT
        while time.monotonic() < deadline:
            found = inspect(ids)
            if failed := next((container for container in found if container.failed), None):
                raise CommandError(f"{failed.name} did not start: {reason(failed, compose)}")
            if len(found) < len(ids):
                raise CommandError("a container was removed by somebody else before it was ready")
            if all(container.well for container in found):
                return
            time.sleep(0.2)
        raise CommandError(f"{', '.join(c.name for c in found)}: not ready in {_READY_TIMEOUT} s; see make logs")

    def _introduce(self, stack: Stack, started: Sequence[Container]) -> None:
        """Wait until Nginx has met new replicas, so that the old ones may go."""
        unseen = {container.hostname for container in started}
        deadline = time.monotonic() + _INTRODUCTION
        while unseen and time.monotonic() < deadline and probe.listens(stack.address):
            unseen.discard(probe.marks(stack.address).replica)

    def _predict(self, stack: Stack) -> None:
        """One prediction through Nginx, as a user's client would make it."""
        if note := probe.predict_example(stack.address):
            print(f"note: {note}")


@contextmanager
def _taken_back_on_failure(compose: Compose) -> Iterator[None]:
    """Leave the model that was current before, for replicas which start by themselves."""
    try:
        yield
    except BaseException:
        with suppress(CommandError):
            provider.undo(compose)
        raise


def _stop(containers: Sequence[Container]) -> None:
    """Let them finish what they answer, all at once, and remove them."""
    ids = [container.id for container in containers]
    if ids:
        docker("stop", *ids)
        docker("rm", "--volumes", *ids)
