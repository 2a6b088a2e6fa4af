"""The Docker backend: each step computes what should run, and lets the engine converge to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from deploy.backends.base import Backend
from deploy.backends.docker import images, monitoring, provider, registry, security_variables
from deploy.backends.docker.convergence import converge
from deploy.backends.docker.engine import MONITORING_SERVICES, Compose, Container, is_engine_local
from deploy.backends.docker.rollout import ContainerRegistrar, ContainerReplica
from deploy.backends.docker.topology import (
    DEFAULT,
    check_reachable,
    mountable_file,
    training_variables,
    variables,
    with_limits,
)
from deploy.backends.docker.watch import exec_stats, show_logs, status
from deploy.errors import CommandError
from deploy.options import Options
from deploy.rollout.promotion import Registrar, Replica, Version
from deploy.security import api_keys
from deploy.stack import ports
from deploy.stack.code import code_digest
from deploy.stack.machine import source_address
from deploy.stack.paths import ROOT, Layout
from deploy.stack.record import Record, Served
from deploy.stack.registry_services import MLFLOW, OBJECT_STORE, with_registry
from deploy.stack.specification import Stack
from server.model_store.resolve import local_folder


class DockerBackend(Backend):
    """A stack as one Compose project: that of this checkout, unless COMPOSE_PROJECT_NAME names another."""

    name = "docker"
    default = DEFAULT
    registry_address = registry.ADDRESS
    tls_key_mode = 0o644  # Nginx runs as another user in its container.
    _limits_missing = "CPUS and MEMORY are missing; expected at least one of them: make resources CPUS=0.5 MEMORY=512M"

    def __init__(self, layout: Layout, options: Options) -> None:
        super().__init__(layout, options)
        self._composes: dict[frozenset[tuple[str, str]], Compose] = {}

    def monitoring(self) -> Mapping[str, str]:
        """Start Prometheus and Grafana for the running stack; return the addresses of their pages."""
        previous = self._require_running()
        stack = monitoring.with_monitoring(previous.wanted, self._options)
        compose = self._claim(previous.with_wanted(stack))
        monitoring.check_ports(stack, previous.wanted)
        monitoring.get_image(compose, published=stack.has_published_images)
        with monitoring.stopped_on_failure(compose, previous.wanted):
            monitoring.up(compose, pull=True)
        previous.with_wanted(stack).save(self._layout)
        return monitoring.pages(stack, compose.containers())

    def train(self) -> None:
        """Train a model and register it in the stack's registry."""
        provider.train(self._ready_compose(self._running() or self._requested()))

    def compile(self) -> None:
        """Compile a model; store the result in the stack's registry, or next to its folder."""
        running = self._running()
        stack = self._with_limits((running.wanted if running else DEFAULT).changed(self._options))
        rows = mountable_file("DATA", self._options.data)
        compose = self._ready_compose(Record(stack))
        folder = local_folder(stack.model_uri or "models:/")
        provider.compile_model(compose, folder, rows, self._options.persistent.get("ENGINE", ""))

    def record(self, document: str) -> None:
        """Log measured runs in the stack's registry."""
        provider.record(self._compose(self._running() or self._requested()), document)

    def build(self) -> None:
        """Build the images for this machine."""
        compose = self._compose(_with_every_service(self._requested()))
        if reason := images.pull_base_images([OBJECT_STORE]):
            raise CommandError(reason)
        images.build(compose)
        for image, size in images.sizes(compose):
            print(f"{image}  {size / 1e6:.0f} MB")

    def publish(self) -> None:
        """Build the images for every platform and push them."""
        images.publish(self._compose(_with_every_service(self._requested())), self._options)

    def status(self) -> list[str]:
        """Return a line for each container, and notes on problems."""
        record = self._require_running()
        return status(record.wanted, self._compose(record), self._layout)

    def stats(self) -> None:
        """Replace this process by `docker stats` of the stack's containers; does not return."""
        exec_stats(self._compose(self._require_running()))

    def logs(self) -> None:
        """Print the log of a service."""
        show_logs(self._compose(self._running() or Record(DEFAULT)), self._options.service)

    def down(self) -> None:
        """Stop and remove every container of this stack, and keep its volumes."""
        record = self._running() or Record(DEFAULT)
        self._claim(_with_every_service(record)).run("down", "--remove-orphans")
        self._layout.delete_stack_files()

    def delete(self) -> None:
        """Delete the containers, the volumes with the registry and the models, and the images that were built here."""
        compose = self._claim(_with_every_service(Record(DEFAULT)))
        compose.run("down", "--remove-orphans", "--volumes")
        images.remove_built_images(compose)

    @property
    def has_containers(self) -> bool:
        """Whether this checkout's project has containers, also ones that Compose started without a record."""
        return bool(self._containers_here(Record(DEFAULT)))

    # --- the steps ---------------------------------------------------------------------------------------------------

    def _running(self) -> Record | None:
        """Return the record; for containers that `docker compose` started, derive one from options and containers."""
        record = Record.load(self._layout)
        if record is not None:
            return record
        requested = self._requested()
        containers = self._containers_here(requested)
        services = {container.service for container in containers}
        stack = with_registry(requested.wanted, self._options, registry.ADDRESS, full=MLFLOW in services)
        replicas = sum(container.service == "server" for container in containers)
        has_monitoring = not services.isdisjoint(MONITORING_SERVICES)
        return Record(replace(stack, replicas=max(1, replicas), monitoring=has_monitoring)) if containers else None

    def _requested(self) -> Record:
        return Record(self._with_limits(DEFAULT.changed(self._options)))

    def _with_limits(self, stack: Stack) -> Stack:
        stack = with_limits(stack, self._options)
        check_reachable(stack)
        return stack

    def _prepare(self, stack: Stack, previous: Record | None) -> Stack:
        self._options = registry.with_secrets(self._compose(Record(stack)), stack, self._options)
        api_keys.check_mountable(stack)
        compose = self._claim(Record(stack), training=True)
        self._check_ports(stack, previous.wanted if previous else None)
        self._get_images(compose, stack)
        return stack

    def _start_registry(self, stack: Stack) -> None:
        registry.up(self._compose(Record(stack)), stack)

    def _restore_registry(self, stack: Stack, previous: Record) -> None:
        if not previous.wanted.full:
            registry.remove(self._compose(Record(stack)), stack)

    def _provide_model(self, stack: Stack, previous: Record | None) -> Record:
        served = previous.served if previous else Served()
        return Record(stack, served.after_providing(provider.provide(self._compose(Record(stack), training=True))))

    @contextmanager
    def _model_restored_on_failure(self, record: Record) -> Iterator[None]:
        """If the block fails, make the previous model current again for replicas that the engine restarts."""
        try:
            yield
        except BaseException:
            with suppress(CommandError):
                provider.undo(self._compose(record))
            raise

    def _start(self, record: Record) -> None:
        self._converge(record)

    def _converge(self, record: Record) -> None:
        converge(self._compose(record), record, self._layout, replace_all=False)

    def _finish(self, stack: Stack) -> None:
        """Update the monitoring services, if the stack has them, without pulling images."""
        if not stack.monitoring:
            return
        try:
            monitoring.up(self._compose(Record(stack)), pull=False)
        except CommandError as error:
            print(f"note: the stack serves without monitoring: {error}", flush=True)

    def _provide_newest_model(self, previous: Record) -> Record:
        return replace(previous, served=Served(provider.provide(self._compose(previous, training=True))))

    def _replace_replicas(self, record: Record) -> None:
        converge(self._compose(record), record, self._layout, replace_all=True)

    def _replicas_and_registrar(self, stack: Stack, previous: Record | None) -> tuple[Sequence[Replica], Registrar]:
        compose = self._claim(previous or Record(stack))
        if previous is None:
            self._get_images(compose, stack)
        published = stack.has_published_images
        replicas = [ContainerReplica(container, compose, published) for container in compose.containers("server")]
        return replicas, ContainerRegistrar(compose)

    def _record_promotion(self, previous: Record, promoted: Version) -> None:
        model = provider.model_id(promoted.digest, promoted.number)
        replace(previous, served=replace(previous.served, reloaded_to=model)).save(self._layout)

    def _containers_here(self, record: Record) -> list[Container]:
        return [container for container in self._compose(record).containers() if container.project_folder == str(ROOT)]

    def _compose(self, record: Record, *, training: bool = False) -> Compose:
        """Return Compose with the variables of a stack and, if ``training``, of a service that may train.

        The objects are cached, since Compose takes about 0.2 s to parse its configuration.
        """
        stack, options = record.wanted, self._options
        values = variables(stack) | security_variables.variables(stack, self._layout, options)
        values |= registry.variables(stack, options) | (training_variables(options) if training else {})
        values["CODE_DIGEST"] = code_digest()
        values["SOURCE"] = options.source or source_address()
        if options.project:
            values["COMPOSE_PROJECT_NAME"] = options.project
        compose = self._composes.setdefault(frozenset(values.items()), Compose(values))
        return compose.with_config_label(record.served.started_with)

    def _claim(self, record: Record, *, training: bool = False) -> Compose:
        """Return Compose and remember the project as this checkout's, so that `make clean` may delete its volumes.

        Raises:
            CommandError: another checkout uses the project.
        """
        compose = self._compose(record, training=training)
        name = compose.config()["name"]
        folders = {container.project_folder for container in compose.containers()} - {str(ROOT), ""}
        if folders:
            raise CommandError(
                f"a stack of {folders.pop()} runs as the Compose project {name!r}; "
                f"choose another name with COMPOSE_PROJECT_NAME="
            )
        self._layout.project.write_text(f"{name}\n")
        return compose

    def _check_ports(self, stack: Stack, previous: Stack | None) -> None:
        """Refuse ports that another program uses, before anything is built."""
        stack.check_ports()
        if not is_engine_local():
            return
        for variable, (host, port) in stack.new_ports(previous).items():
            ports.check_unused(host, port, variable)
        if stack.monitoring:
            monitoring.check_ports(stack, previous)

    def _ready_compose(self, record: Record) -> Compose:
        compose = self._claim(record, training=True)
        self._get_images(compose, record.wanted)
        return compose

    def _get_images(self, compose: Compose, stack: Stack) -> None:
        """Build the images from this checkout, unless IMAGE names published ones."""
        (images.pull if stack.has_published_images else images.build)(compose)


def _with_every_service(record: Record) -> Record:
    """Return the record with every optional service, so that stopping it also stops services of an earlier stack."""
    return record.with_wanted(replace(record.wanted, full=True, monitoring=True))
