"""The verbs on the container backend. Each computes what should run and lets the engine converge to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace

from deploy.backends.docker import images, monitoring, provider, registry, security_variables
from deploy.backends.docker.convergence import converge
from deploy.backends.docker.engine import MONITORING, Compose, Container, is_local
from deploy.backends.docker.rollout import ContainerRegistrar, ContainerReplica
from deploy.backends.docker.topology import DEFAULT, data, file, limited, requested, variables
from deploy.backends.docker.watch import become_stats, show_logs, status
from deploy.errors import CommandError
from deploy.rollout import replica_client
from deploy.rollout.promotion import Version, promote, settle
from deploy.security import api_keys, tls
from deploy.stack import ports
from deploy.stack.code import code_digest, outdated
from deploy.stack.machine import source_address
from deploy.stack.paths import ROOT, Layout
from deploy.stack.registry_services import MLFLOW, OBJECT_STORE, with_registry
from deploy.stack.specification import MOST, Stack
from server.model_store.resolve import local_folder


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
        stack = requested(before or DEFAULT, self._environ)
        stack = with_registry(stack, self._environ, registry.ADDRESS, full=full)
        self._environ = registry.secrets(self._compose(stack), stack, self._environ)
        tls.check(stack)
        api_keys.check(stack, self._environ)
        api_keys.check_mountable(stack)
        compose = self._claim(stack, data(self._environ))
        self._place(stack, before)
        self._get_images(compose, stack)
        # What runs stays as it is if there is no model; from nothing, nothing is left.
        undone = nullcontext() if before else self._undone_on_failure(None)
        with undone, registry.stopped_on_failure(compose, stack, before):
            self._start_registry(compose, stack, before)
            stack = stack.serving(provider.provide(compose))
        shown = (self._layout.tls_key, self._layout.tls_cert)
        with self._undone_on_failure(before), _taken_back_on_failure(compose), tls.restored_on_failure(*shown):
            # Readable to all within a folder of this user alone: containers have other users.
            tls.install(self._layout, stack, mode=0o644)
            self._converge(stack)
            self._predict(stack)
        self._watch_again(stack)
        return stack

    def monitoring(self) -> Mapping[str, str]:
        """Prometheus and Grafana beside the stack that runs."""
        before = self._require_running()
        stack = before.changed({name: self._environ.get(name, "") for name in monitoring.PORTS})
        stack = replace(stack, monitoring=True)
        compose = self._claim(stack)
        monitoring.place(stack, before)
        monitoring.get_image(compose, published="IMAGE" in stack.environment)
        with monitoring.stopped_on_failure(compose, before):
            monitoring.up(compose, pull=True)
        stack.save(self._layout)
        return monitoring.pages(stack, compose.containers())

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
        stack = before or requested(DEFAULT, self._environ)
        compose = self._claim(stack)
        if before is None:
            self._get_images(compose, stack)
        containers = compose.containers("server")
        if "IMAGE" not in stack.environment:  # published images may be of another checkout
            code = code_digest()
            if replica := next((container.name for container in containers if container.code != code), None):
                raise CommandError(outdated(replica))
        replicas = [ContainerReplica(container, compose) for container in containers]
        patience = stack.settings(self._layout).graceful_timeout
        promoted = promote(replicas, ContainerRegistrar(compose), version, force=force, patience=patience)
        if before is not None:
            replace(before, promoted=provider.identity(promoted.digest, promoted.number)).save(self._layout)
            settle(before.address, promoted, before.replicas, replica_client.Access.of(before, self._layout))
        return promoted

    def train(self) -> None:
        """Fit, check and register a model in the stack's registry."""
        stack = self._running() or requested(DEFAULT, self._environ)
        compose = self._claim(stack, data(self._environ))
        self._get_images(compose, stack)
        provider.train(compose)

    def compile(self) -> None:
        """Give a model a compiled form, in the stack's registry or beside its folder."""
        stack = requested(self._running() or DEFAULT, self._environ)
        rows = file("DATA", self._environ)
        compose = self._claim(stack, data(self._environ))
        self._get_images(compose, stack)
        folder = local_folder(stack.environment.get("MODEL_URI", "models:/"))
        provider.compile_model(compose, folder, rows, self._environ.get("ENGINE", ""))

    def record(self, document: str) -> None:
        """Log measured runs in the stack's registry."""
        provider.record(self._compose(self._running() or requested(DEFAULT, self._environ)), document)

    def build(self) -> None:
        """Build the images for this machine."""
        compose = self._compose(_whole(requested(DEFAULT, self._environ)))
        if why := images.missing([OBJECT_STORE]):
            raise CommandError(why)
        images.build(compose)
        for image, size in images.sizes(compose):
            print(f"{image}  {size / 1e6:.0f} MB")

    def publish(self) -> None:
        """Build the images for every platform and push them."""
        images.publish(self._compose(_whole(requested(DEFAULT, self._environ))), self._environ)

    def status(self) -> list[str]:
        """A line a container, and what is wrong with those that are not well."""
        stack = self._require_running()
        return status(stack, self._compose(stack), self._layout)

    def stats(self) -> None:
        """Become `docker stats`."""
        become_stats(self._compose(self._require_running()))

    def logs(self) -> None:
        """What a service printed."""
        show_logs(self._compose(self._running() or DEFAULT), self._environ.get("S") or "server")

    def down(self) -> None:
        """Stop and remove every container of this stack; its volumes stay."""
        self._claim(_whole(self._running() or DEFAULT)).run("down", "--remove-orphans")
        self._layout.forget()

    def delete(self) -> None:
        """The volumes too, the registry and the models, and the images that were built here."""
        compose = self._claim(_whole(DEFAULT))
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
        stack = requested(DEFAULT, self._environ)
        found = self._found(stack)
        replicas = sum(container.service == "server" for container in found)
        there = {container.service for container in found}
        stack = with_registry(stack, self._environ, registry.ADDRESS, full=MLFLOW in there)
        stack = replace(stack, monitoring=not there.isdisjoint(MONITORING))
        return replace(stack, replicas=max(1, replicas)) if found else None

    def _found(self, stack: Stack) -> list[Container]:
        return [one for one in self._compose(stack).containers() if one.folder == str(ROOT)]

    def _require_running(self) -> Stack:
        stack = self._running()
        if stack is None:
            raise CommandError("nothing is running here; start it with: make up")
        return stack

    def _compose(self, stack: Stack, more: Mapping[str, str] | None = None) -> Compose:
        chosen = variables(stack) | security_variables.variables(stack, self._layout, self._environ)
        chosen |= registry.variables(stack, self._environ) | dict(more or {})
        chosen["CODE_DIGEST"] = code_digest()
        chosen["SOURCE"] = self._environ.get("SOURCE") or source_address()
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
        stack.check_ports()
        if not is_local():
            return
        if before is None or (stack.http_host, stack.http_port) != (before.http_host, before.http_port):
            ports.check_unused(stack.http_host, stack.http_port or 80, "HTTP_PORT")
        had = before.https_port or 443 if before and before.has_tls else None
        if stack.has_tls and had != (stack.https_port or 443):
            ports.check_unused(stack.http_host, stack.https_port or 443, "HTTPS_PORT")
        if before is None or stack.locust_port != before.locust_port:
            ports.check_unused("127.0.0.1", stack.locust_port, "LOCUST_PORT")
        if stack.full and (before is None or not before.full or stack.mlflow_port != before.mlflow_port):
            ports.check_unused("127.0.0.1", stack.mlflow_port, "MLFLOW_PORT")
        if stack.monitoring:
            monitoring.place(stack, before)

    def _start_registry(self, compose: Compose, stack: Stack, before: Stack | None) -> None:
        """The stack's own registry, if it has one. What has been served goes on being so without it."""
        try:
            registry.up(compose, stack)
        except CommandError as error:
            if before is None or not before.full:
                raise
            print(f"note: the registry did not come up, so that the last good copy is served: {error}", flush=True)

    def _watch_again(self, stack: Stack) -> None:
        """What watches the stack, if anything does: as this checkout has it now, and without asking a network."""
        if not stack.monitoring:
            return
        try:
            monitoring.up(self._compose(stack), pull=False)
        except CommandError as error:
            print(f"note: the stack serves, and is not watched: {error}", flush=True)

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
        converge(self._compose(stack), stack, self._layout, anew=anew)

    def _predict(self, stack: Stack) -> None:
        """One prediction through Nginx, as a user's client would make it."""
        access = replica_client.Access.of(stack, self._layout, api_keys.client_key(stack, self._environ))
        if note := replica_client.predict_example(stack.address, access):
            print(f"note: {note}")


def _whole(stack: Stack) -> Stack:
    """With every service that there may be: the registry's, and those that watch."""
    return replace(stack, full=True, monitoring=True)


@contextmanager
def _taken_back_on_failure(compose: Compose) -> Iterator[None]:
    """Leave the model that was current before, for replicas which start by themselves."""
    try:
        yield
    except BaseException:
        with suppress(CommandError):
            provider.undo(compose)
        raise
