"""End-to-end tests of /metrics of one replica, whose counts must equal the answers that clients got."""

from __future__ import annotations

import http.client
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from server.model_store.copies import Copies, Copy
from server.model_store.digest import folder_digest
from tests.support.models import saved_models
from tests.support.scrapes import request_counts, samples
from tests.support.stacks.local import Replica, StartReplica
from tests.support.stress.load import Load, request_bytes
from tests.support.waiting import wait_until

DOUBLING = {"x": 4.5}
TIMEOUT_SECONDS = 60


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved_models.save_pyfunc(tmp_path / "model", saved_models.Doubling())


@pytest.fixture
def replica(start_replica: StartReplica, model: Path) -> Replica:
    return start_replica(model, WEB_CONCURRENCY="2")


def scrape(replica: Replica) -> tuple[str, dict[str, float]]:
    """Return the worker that answered on a new connection, and its samples."""
    connection = http.client.HTTPConnection("127.0.0.1", replica.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/metrics", headers={"Connection": "close"})
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.headers["X-Served-By"], samples(answer.read().decode())
    finally:
        connection.close()


def predictions(series: dict[str, float]) -> dict[int, int]:
    return {status: count for (route, status), count in request_counts(series).items() if route == "/predict"}


def scrape_until(holds: Callable[[dict[str, float]], bool], replica: Replica) -> dict[str, float]:
    """Return the first scrape for which a condition holds."""

    def scraped() -> dict[str, float] | None:
        _, series = scrape(replica)
        return series if holds(series) else None

    return wait_until(scraped, TIMEOUT_SECONDS, describe=lambda: scrape(replica)[1])


def folder(replica: Replica) -> Path:
    """Return the folder in which the workers of a replica keep their counts."""
    maps = Path(f"/proc/{replica.process.pid}/maps").read_text().splitlines()
    (parent,) = {Path(line.split()[-1]).parent for line in maps if line.endswith(".db")}
    return parent


def workers(replica: Replica) -> list[psutil.Process]:
    return psutil.Process(replica.process.pid).children()


def test_every_worker_reports_the_counts_of_all(replica: Replica) -> None:
    """After requests of several types on many connections, every worker reports exactly the answers of all clients."""
    with Load(replica.port, connections=16, max_requests=2000, document=DOUBLING) as valid_load:
        with Load(replica.port, connections=4, max_requests=300, document={"y": 1}) as invalid_load:
            invalid_load.join()
        valid_load.join()
    for target in ("/health", "/health", "/nowhere"):
        replica.ask("GET", target)
    assert not valid_load.counts.broken + invalid_load.counts.broken
    expected = {**valid_load.counts.statuses, **invalid_load.counts.statuses}
    assert expected == {200: 2000, 422: 300}
    scrapes: dict[str, dict[str, float]] = {}
    while len(scrapes) < 2:
        worker, series = scrape(replica)
        scrapes[worker] = series
    for series in scrapes.values():
        assert predictions(series) == expected
        assert series['forkcast_request_seconds_count{route="/predict"}'] == 2300
        assert series["forkcast_wait_seconds_count"] == 2000
        assert series["forkcast_batch_rows_sum"] == 2000
        assert request_counts(series)["/health", 200] == 2
        assert request_counts(series)["other", 404] == 1
        assert series["forkcast_workers"] == 2
    # The other worker publishes its waiting rows ten times a second.
    scrape_until(lambda series: series["forkcast_pending_rows"] == 0, replica)


def test_killed_worker_loses_at_most_its_own_requests(replica: Replica) -> None:
    """A worker killed with SIGKILL loses at most the counts of the requests that it was answering."""
    connections = 32
    with Load(replica.port, connections=connections, document=DOUBLING) as load:
        load.wait_for(500)
        workers(replica)[0].kill()
        load.wait_for(500)
    series = scrape_until(lambda series: series["forkcast_workers"] == 2, replica)
    answered, lost = sum(load.counts.statuses.values()), len(load.counts.broken)
    assert set(load.counts.statuses) == {200}
    assert abs(predictions(series)[200] - answered) <= connections, (answered, lost)
    scrape_until(lambda series: series["forkcast_pending_rows"] == 0, replica)


def test_counts_never_decrease_when_workers_die(replica: Replica) -> None:
    """However many workers die, no count decreases, and there are files only for living workers."""
    requests, previous = 0, scrape(replica)[1]
    files = sorted(folder(replica).iterdir())
    for _ in range(25):
        for worker in workers(replica):
            assert replica.ask("POST", "/predict", DOUBLING)[0] == 200
            requests += 1
            worker.kill()
            worker.wait(TIMEOUT_SECONDS)
            replica.wait_ready()
        _, series = scrape(replica)
        assert {name for name, value in previous.items() if is_counter(name) and series[name] < value} == set()
        assert predictions(series) == {200: requests}
        previous = series
    scrape_until(lambda series: series["forkcast_workers"] == 2, replica)
    assert sorted(folder(replica).iterdir()) == files
    assert requests == 50


def is_counter(series_name: str) -> bool:
    return series_name.partition("{")[0].endswith(("_total", "_bucket", "_count", "_sum"))


def test_counts_continue_after_a_reload_of_another_model(
    start_replica: StartReplica, model: Path, tmp_path: Path
) -> None:
    """After SIGHUP only the new model is reported, and every count continues from its old value."""
    folders = {"1": model, "2": saved_models.save_pyfunc(tmp_path / "other", saved_models.Refusing())}
    copies = Copies(tmp_path / "models")
    (tmp_path / "models").mkdir()

    def promote(version: str) -> str:
        digest = folder_digest(folders[version])
        copies.make_current(Copy(folders[version], "doubling", version, "models:/doubling@champion", digest))
        return f'digest="{digest}",engine="pyfunc",name="doubling",version="{version}"'

    first_labels = promote("1")
    replica = start_replica(tmp_path / "models/current.json", WEB_CONCURRENCY="2")
    with Load(replica.port, connections=8, max_requests=400, document=DOUBLING) as load:
        load.join()
    _, series = scrape(replica)
    assert predictions(series) == {200: 400}
    assert series[f"forkcast_model_info{{{first_labels}}}"] == 1
    second_labels, old_workers = promote("2"), workers(replica)
    replica.process.send_signal(signal.SIGHUP)
    assert not psutil.wait_procs(old_workers, timeout=TIMEOUT_SECONDS)[1]
    assert replica.ask("POST", "/predict", DOUBLING)[1]["model_version"] == "2"
    series = scrape_until(lambda series: series["forkcast_workers"] == 2, replica)
    assert predictions(series) == {200: 401}
    assert [name for name in series if "model_info" in name] == [f"forkcast_model_info{{{second_labels}}}"]
    assert series['forkcast_request_seconds_count{route="/predict"}'] == 401
    # Old and new workers ran at the same time, and the workers of another reload reuse the old workers' files.
    files = sorted(folder(replica).glob("[ch]*"))
    old_workers = workers(replica)
    replica.process.send_signal(signal.SIGHUP)
    assert not psutil.wait_procs(old_workers, timeout=TIMEOUT_SECONDS)[1]
    replica.wait_ready()
    assert sorted(folder(replica).glob("[ch]*")) == files


def test_shed_requests_and_closed_connections_are_counted(start_replica: StartReplica, tmp_path: Path) -> None:
    """Each 503 counts as a shed request, and a client that closes its connection counts as 499."""
    replica = start_replica(
        saved_models.save_pyfunc(tmp_path / "model", saved_models.Sleeping()), WEB_CONCURRENCY="1", MAX_PENDING="4"
    )
    with Load(replica.port, connections=12, max_requests=12, document={"x": 1}) as load:
        load.join()
    statuses = dict(load.counts.statuses)
    assert set(statuses) == {200, 503}
    _, series = scrape(replica)
    assert predictions(series) == statuses
    assert series['forkcast_sheds_total{reason="full"}'] == statuses[503]
    assert series['forkcast_sheds_total{reason="draining"}'] == 0
    while 499 not in predictions(series):
        with socket.create_connection(("127.0.0.1", replica.port)) as client:
            client.sendall(request_bytes({"x": 1}, replica.port))
            time.sleep(0.2)  # less than the second of a predict call
        _, series = scrape(replica)
    assert predictions(series)[503] == statuses[503]


def test_memory_is_the_sum_of_all_processes(replica: Replica) -> None:
    """Each worker reports the memory of the master and both workers."""
    processes = [psutil.Process(replica.process.pid), *workers(replica)]
    private = sum(process.memory_full_info().uss for process in processes)
    _, series = scrape(replica)
    assert private / 2 < series["forkcast_memory_private_bytes"] < 2 * private
    assert series["forkcast_memory_shared_bytes"] > 10_000_000


def test_master_has_one_thread(replica: Replica) -> None:
    """Metrics start no thread in the master, which forks, and leave no open lock file in the workers."""
    scrape(replica)
    names = [path.read_text().strip() for path in Path(f"/proc/{replica.process.pid}/task").glob("*/comm")]
    assert len([name for name in names if name != "jemalloc_bg_thd"]) == 1
    for worker in workers(replica):
        open_files = {path.readlink() for path in Path(f"/proc/{worker.pid}/fd").iterdir() if path.is_symlink()}
        assert folder(replica) not in open_files


def test_folder_is_deleted_with_the_replica(start_replica: StartReplica, model: Path) -> None:
    """The folder is deleted when the replica ends, or, if the master was killed, when the next replica starts."""
    killed = start_replica(model, WEB_CONCURRENCY="1")
    leftover = folder(killed)
    assert leftover.parent == Path("/dev/shm")  # noqa: S108
    orphans = workers(killed)
    killed.process.kill()
    killed.process.wait()
    assert not psutil.wait_procs(orphans, timeout=TIMEOUT_SECONDS)[1]
    next_replica = start_replica(model, WEB_CONCURRENCY="1")
    assert not leftover.exists()
    current = folder(next_replica)
    next_replica.process.send_signal(signal.SIGTERM)
    assert next_replica.process.wait(TIMEOUT_SECONDS) == 0
    assert not current.exists()


def test_second_replica_at_an_address_changes_no_counts(
    replica: Replica, start_replica: StartReplica, model: Path
) -> None:
    """A second replica that cannot listen on an address in use does not change the first one's counts."""
    assert replica.ask("POST", "/predict", DOUBLING)[0] == 200
    second_replica = start_replica(model, WEB_CONCURRENCY="1", PORT=str(replica.port))
    assert second_replica.process.wait(TIMEOUT_SECONDS) != 0
    assert predictions(scrape(replica)[1]) == {200: 1}
    assert folder(replica).is_dir()
