"""/metrics of one replica of two workers: what clients were answered is what is counted, whatever happens to them."""

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
PATIENCE = 60  # seconds until a test that hangs fails instead


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved_models.save_pyfunc(tmp_path / "model", saved_models.Doubling())


@pytest.fixture
def replica(start_replica: StartReplica, model: Path) -> Replica:
    return start_replica(model, WEB_CONCURRENCY="2")


def scrape(replica: Replica) -> tuple[str, dict[str, float]]:
    """Who answers, on a connection of its own, and what."""
    connection = http.client.HTTPConnection("127.0.0.1", replica.port, timeout=PATIENCE)
    try:
        connection.request("GET", "/metrics", headers={"Connection": "close"})
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.headers["X-Served-By"], samples(answer.read().decode())
    finally:
        connection.close()


def predictions(found: dict[str, float]) -> dict[int, int]:
    return {status: count for (route, status), count in request_counts(found).items() if route == "/predict"}


def scrape_until(holds: Callable[[dict[str, float]], bool], replica: Replica) -> dict[str, float]:
    """The first scrape for which a condition holds."""

    def scraped() -> dict[str, float] | None:
        _, found = scrape(replica)
        return found if holds(found) else None

    return wait_until(scraped, PATIENCE, describe=lambda: scrape(replica)[1])


def folder(replica: Replica) -> Path:
    """Where its workers keep their counts."""
    maps = Path(f"/proc/{replica.process.pid}/maps").read_text().splitlines()
    (found,) = {Path(line.split()[-1]).parent for line in maps if line.endswith(".db")}
    return found


def workers(replica: Replica) -> list[psutil.Process]:
    return psutil.Process(replica.process.pid).children()


def test_counts_are_what_clients_got(replica: Replica) -> None:
    """After many requests of many kinds, from many connections, every worker tells exactly what all clients got."""
    with Load(replica.port, connections=16, max_requests=2000, document=DOUBLING) as good:
        with Load(replica.port, connections=4, max_requests=300, document={"y": 1}) as bad:
            bad.join()
        good.join()
    for target in ("/health", "/health", "/nowhere"):
        replica.ask("GET", target)
    assert not good.counts.broken + bad.counts.broken
    expected = {**good.counts.statuses, **bad.counts.statuses}
    assert expected == {200: 2000, 422: 300}
    told: dict[str, dict[str, float]] = {}
    while len(told) < 2:
        worker, found = scrape(replica)
        told[worker] = found
    for found in told.values():
        assert predictions(found) == expected
        assert found['forkcast_request_seconds_count{route="/predict"}'] == 2300
        assert found["forkcast_wait_seconds_count"] == 2000
        assert found["forkcast_batch_rows_sum"] == 2000
        assert request_counts(found)["/health", 200] == 2
        assert request_counts(found)["other", 404] == 1
        assert found["forkcast_workers"] == 2
    # What waits is told by another worker ten times a second.
    scrape_until(lambda found: found["forkcast_pending_rows"] == 0, replica)


def test_worker_killed_under_load(replica: Replica) -> None:
    """A worker that is killed with -9 takes along no more than what it was answering; the others' counts go on."""
    connections = 32
    with Load(replica.port, connections=connections, document=DOUBLING) as load:
        load.wait_for(500)
        workers(replica)[0].kill()
        load.wait_for(500)
    found = scrape_until(lambda found: found["forkcast_workers"] == 2, replica)
    got, lost = sum(load.counts.statuses.values()), len(load.counts.broken)
    assert set(load.counts.statuses) == {200}
    assert abs(predictions(found)[200] - got) <= connections, (got, lost)
    scrape_until(lambda found: found["forkcast_pending_rows"] == 0, replica)


def test_many_killed_workers(replica: Replica) -> None:
    """However many workers die, no count ever goes down, and there are no more files than for those that live."""
    asked, before = 0, scrape(replica)[1]
    files = sorted(folder(replica).iterdir())
    for _ in range(25):
        for worker in workers(replica):
            assert replica.ask("POST", "/predict", DOUBLING)[0] == 200
            asked += 1
            worker.kill()
            worker.wait(PATIENCE)
            replica.wait_ready()
        _, found = scrape(replica)
        assert {series for series, value in before.items() if grows(series) and found[series] < value} == set()
        assert predictions(found) == {200: asked}
        before = found
    scrape_until(lambda found: found["forkcast_workers"] == 2, replica)
    assert sorted(folder(replica).iterdir()) == files
    assert asked == 50


def grows(series: str) -> bool:
    return series.partition("{")[0].endswith(("_total", "_bucket", "_count", "_sum"))


def test_other_model_after_a_reload(start_replica: StartReplica, model: Path, tmp_path: Path) -> None:
    """After HUP the model is the new one alone, while every count goes on from what it was."""
    folders = {"1": model, "2": saved_models.save_pyfunc(tmp_path / "other", saved_models.Refusing())}
    copies = Copies(tmp_path / "models")
    (tmp_path / "models").mkdir()

    def promote(version: str) -> str:
        digest = folder_digest(folders[version])
        copies.make_current(Copy(folders[version], "doubling", version, "models:/doubling@champion", digest))
        return f'digest="{digest}",engine="pyfunc",name="doubling",version="{version}"'

    first = promote("1")
    replica = start_replica(tmp_path / "models/current.json", WEB_CONCURRENCY="2")
    with Load(replica.port, connections=8, max_requests=400, document=DOUBLING) as load:
        load.join()
    _, found = scrape(replica)
    assert predictions(found) == {200: 400}
    assert found[f"forkcast_model_info{{{first}}}"] == 1
    second, old = promote("2"), workers(replica)
    replica.process.send_signal(signal.SIGHUP)
    assert not psutil.wait_procs(old, timeout=PATIENCE)[1]
    assert replica.ask("POST", "/predict", DOUBLING)[1]["model_version"] == "2"
    found = scrape_until(lambda found: found["forkcast_workers"] == 2, replica)
    assert predictions(found) == {200: 401}
    assert [series for series in found if "model_info" in series] == [f"forkcast_model_info{{{second}}}"]
    assert found['forkcast_request_seconds_count{route="/predict"}'] == 401
    # Old and new workers lived at the same time, and another reload takes the old ones' places.
    files = sorted(folder(replica).glob("[ch]*"))
    old = workers(replica)
    replica.process.send_signal(signal.SIGHUP)
    assert not psutil.wait_procs(old, timeout=PATIENCE)[1]
    replica.wait_ready()
    assert sorted(folder(replica).glob("[ch]*")) == files


def test_requests_that_were_shed_and_callers_that_left(start_replica: StartReplica, tmp_path: Path) -> None:
    """Each 503 counts as one that was shed, and a client that hung up as 499."""
    replica = start_replica(
        saved_models.save_pyfunc(tmp_path / "model", saved_models.Sleeping()), WEB_CONCURRENCY="1", MAX_PENDING="4"
    )
    with Load(replica.port, connections=12, max_requests=12, document={"x": 1}) as load:
        load.join()
    statuses = dict(load.counts.statuses)
    assert set(statuses) == {200, 503}
    _, found = scrape(replica)
    assert predictions(found) == statuses
    assert found['forkcast_sheds_total{reason="full"}'] == statuses[503]
    assert found['forkcast_sheds_total{reason="draining"}'] == 0
    while 499 not in predictions(found):
        with socket.create_connection(("127.0.0.1", replica.port)) as impatient:
            impatient.sendall(request_bytes({"x": 1}, replica.port))
            time.sleep(0.2)  # a call takes a second
        _, found = scrape(replica)
    assert predictions(found)[503] == statuses[503]


def test_memory_is_that_of_all_processes(replica: Replica) -> None:
    """Whichever worker is asked, the memory is that of the master and of both workers."""
    both = [psutil.Process(replica.process.pid), *workers(replica)]
    private = sum(process.memory_full_info().uss for process in both)
    _, found = scrape(replica)
    assert private / 2 < found["forkcast_memory_private_bytes"] < 2 * private
    assert found["forkcast_memory_shared_bytes"] > 10_000_000


def test_master_has_one_thread(replica: Replica) -> None:
    """Metrics bring no thread into the master, which forks, nor an open lock into its workers."""
    scrape(replica)
    names = [path.read_text().strip() for path in Path(f"/proc/{replica.process.pid}/task").glob("*/comm")]
    assert len([name for name in names if name != "jemalloc_bg_thd"]) == 1
    for worker in workers(replica):
        open_files = {path.readlink() for path in Path(f"/proc/{worker.pid}/fd").iterdir() if path.is_symlink()}
        assert folder(replica) not in open_files


def test_folder_comes_and_goes_with_the_replica(start_replica: StartReplica, model: Path) -> None:
    """The folder is deleted when the replica ends; one left by a killed master is, when a replica starts."""
    killed = start_replica(model, WEB_CONCURRENCY="1")
    left = folder(killed)
    assert left.parent == Path("/dev/shm")  # noqa: S108
    orphans = workers(killed)
    killed.process.kill()
    killed.process.wait()
    assert not psutil.wait_procs(orphans, timeout=PATIENCE)[1]
    again = start_replica(model, WEB_CONCURRENCY="1")
    assert not left.exists()
    own = folder(again)
    again.process.send_signal(signal.SIGTERM)
    assert again.process.wait(PATIENCE) == 0
    assert not own.exists()


def test_second_replica_at_the_same_address(replica: Replica, start_replica: StartReplica, model: Path) -> None:
    """A replica that is started at another's address by mistake, and cannot listen, takes nothing of the other's."""
    assert replica.ask("POST", "/predict", DOUBLING)[0] == 200
    second = start_replica(model, WEB_CONCURRENCY="1", PORT=str(replica.port))
    assert second.process.wait(PATIENCE) != 0
    assert predictions(scrape(replica)[1]) == {200: 1}
    assert folder(replica).is_dir()
