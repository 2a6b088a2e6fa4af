"""Tests of the folder where workers count: slots in place of process ids, and which files are kept or deleted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import values
from prometheus_client.exposition import generate_latest

from server.metrics.counts import Metrics
from server.metrics.folder import MetricsFolder
from server.settings import ROOT
from tests.support.scrapes import request_counts, samples

OpenFolder = Callable[[], MetricsFolder]


@pytest.fixture
def open_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[OpenFolder]:
    """A function that opens a new folder in this process, as a master does; all are deleted at the end."""
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)  # restored after the test: `open` replaces it
    folders: list[MetricsFolder] = []

    def open_folder() -> MetricsFolder:
        folders.append(MetricsFolder())
        folders[-1].open(tmp_path)
        return folders[-1]

    yield open_folder
    for folder in folders:
        folder.delete()
    assert list(tmp_path.iterdir()) == []


def scrape(metrics: Metrics) -> dict[str, float]:
    return samples(generate_latest(metrics.registry).decode())


def files(folder: MetricsFolder) -> list[str]:
    assert folder.path is not None
    return sorted(path.name for path in folder.path.iterdir())


@pytest.fixture
def folder(open_folder: OpenFolder) -> MetricsFolder:
    return open_folder()


@pytest.fixture
def metrics(folder: MetricsFolder) -> Metrics:
    """Metrics that a master has created."""
    return Metrics(folder.path)


def test_scrape_sums_all_workers(folder: MetricsFolder, metrics: Metrics) -> None:
    """A scrape adds up counters, histograms and gauges of all workers, and series that only one worker has."""
    for slot in (1, 2, 3):
        folder.enter_slot(slot)
        metrics.publish(pending=slot)
        metrics.prediction_answered("/predict", 200, 0.003)
        metrics.prediction_answered("/predict", 400 + slot, 2.0)
        metrics.requests_dequeued([0.001, 0.2])
        metrics.predict_called(2, 0.02)
    series = scrape(metrics)
    assert request_counts(series) == {("/predict", 200): 3, **{("/predict", 400 + slot): 1 for slot in (1, 2, 3)}}
    assert series['forkcast_request_seconds_bucket{le="1.0",route="/predict"}'] == 3
    assert series['forkcast_request_seconds_count{route="/predict"}'] == 6
    assert series["forkcast_wait_seconds_count"] == 6
    assert series["forkcast_wait_seconds_sum"] == pytest.approx(0.603)
    assert series["forkcast_batch_rows_sum"] == 6
    assert (series["forkcast_workers"], series["forkcast_pending_rows"]) == (3, 6)


def test_next_worker_in_a_slot_continues_its_counters(folder: MetricsFolder, metrics: Metrics) -> None:
    """A worker's end deletes its gauges and keeps its counters, which the next worker in its slot continues."""
    folder.enter_slot(1)
    metrics.publish(pending=5)
    for _ in range(3):
        metrics.prediction_answered("/predict", 422, 0.1)
    files_of_predecessor = files(folder)
    folder.leave_slot(1)
    series = scrape(metrics)
    assert (series["forkcast_workers"], series["forkcast_pending_rows"]) == (0, 0)
    assert request_counts(series) == {("/predict", 422): 3}
    folder.enter_slot(1)
    metrics.publish(pending=0)
    metrics.prediction_answered("/predict", 422, 0.1)
    series = scrape(metrics)
    assert series["forkcast_workers"] == 1
    assert request_counts(series) == {("/predict", 422): 4}
    assert series['forkcast_request_seconds_sum{route="/predict"}'] == pytest.approx(0.4)
    assert files(folder) == files_of_predecessor


def test_killed_worker_loses_no_counts(tmp_path: Path) -> None:
    """The counts of a forked worker are complete whether it exits or is killed, and the master's folder stays."""
    script = f"""
import os, signal, sys
from pathlib import Path
from server.metrics.counts import Metrics
from server.metrics.folder import METRICS_FOLDER
METRICS_FOLDER.open(Path({str(tmp_path)!r}))
metrics = Metrics(METRICS_FOLDER.path)
for slot in (1, 2):
    if not os.fork():
        METRICS_FOLDER.enter_slot(slot)
        for _ in range(1000):
            metrics.prediction_answered("/predict", 200, 0.1)
        if slot == 1:
            sys.exit()
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
from prometheus_client.exposition import generate_latest
print(generate_latest(metrics.registry).decode(), end="")
"""
    process = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert request_counts(samples(process.stdout)) == {("/predict", 200): 2000}


def test_counter_never_decreases_for_a_concurrent_reader(folder: MetricsFolder, metrics: Metrics) -> None:
    """Another process that reads a counter while it is written never sees a torn or smaller value."""
    folder.enter_slot(1)
    assert folder.path is not None
    script = f"""
from pathlib import Path
from prometheus_client.exposition import generate_latest
from server.metrics.counts import Metrics
metrics = Metrics(Path({str(folder.path)!r}))
for _ in range(200):
    lines = generate_latest(metrics.registry).decode().splitlines()
    print(next(line.split()[1] for line in lines if line.startswith("forkcast_wait_seconds_count")))
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as reader:
        written = 0
        while reader.poll() is None:
            for _ in range(1000):
                metrics.requests_dequeued([0.1])
            written += 1000
        assert reader.stdout is not None
        counts = [float(line) for line in reader.stdout]
    assert len(counts) == 200
    assert counts == sorted(counts)
    assert 0 < counts[-1] <= written


def test_amounts_counted_together_fall_into_the_same_buckets(folder: MetricsFolder, metrics: Metrics) -> None:
    """Amounts observed in one call fall into the same buckets as one by one, also those equal to an upper bound."""
    amounts = [0.0, 0.00005, 0.0000500001, 0.001, 1.0, 1.0, 9.0, 10.0, 11.0]
    folder.enter_slot(1)
    metrics.requests_dequeued(amounts)
    together = {series: value for series, value in scrape(metrics).items() if "wait_seconds" in series}
    for amount in amounts:
        metrics.predict_called(1, amount)
    one_by_one = {series: value for series, value in scrape(metrics).items() if "predict_seconds" in series}
    assert {series.replace("wait", "predict"): value for series, value in together.items()} == pytest.approx(one_by_one)
    assert one_by_one['forkcast_predict_seconds_bucket{le="5e-05"}'] == 2
    assert one_by_one['forkcast_predict_seconds_bucket{le="10.0"}'] == 8


def test_empty_list_of_waits_changes_no_metric(folder: MetricsFolder, metrics: Metrics) -> None:
    """Observing an empty list of waiting times changes no series."""
    folder.enter_slot(1)
    initial = scrape(metrics)
    metrics.requests_dequeued([])
    assert scrape(metrics) == initial


def test_files_of_1000_workers_fit_into_64_mb(folder: MetricsFolder, metrics: Metrics) -> None:
    """With every route and many statuses, 1,000 workers fit into a container's 64 MB of shared memory."""
    folder.enter_slot(1)
    metrics.publish(0)
    for status in (200, 400, 404, 405, 413, 415, 422, 499, 500, 503):
        for route in ("/predict", "/invocations", "/v2/infer"):
            metrics.prediction_answered(route, status, 0.1)
        for route in ("/health", "/ready", "other"):
            metrics.request_answered(route, status)
    assert folder.path is not None
    assert sum(512 * path.stat().st_blocks for path in folder.path.glob("*_1.db")) < 64_000_000 / 1000


def test_files_of_killed_masters_are_deleted(open_folder: OpenFolder, tmp_path: Path) -> None:
    """A new master deletes the folders that killed masters have left, and none that is in use."""
    script = f"""
import os, signal
from pathlib import Path
from server.metrics.counts import Metrics
from server.metrics.folder import METRICS_FOLDER
METRICS_FOLDER.open(Path({str(tmp_path)!r}))
Metrics(METRICS_FOLDER.path)
os.kill(os.getpid(), signal.SIGKILL)
"""
    first = open_folder()
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    (abandoned,) = set(tmp_path.iterdir()) - {first.path}
    assert list(abandoned.iterdir())
    second = open_folder()
    assert set(tmp_path.iterdir()) == {first.path, second.path}


def test_reload_keeps_the_folder(folder: MetricsFolder, metrics: Metrics, tmp_path: Path) -> None:
    """A master that reads its configuration again keeps its folder and the counts in it."""
    folder.enter_slot(1)
    metrics.prediction_answered("/predict", 200, 0.1)
    path, value_class = folder.path, values.ValueClass
    folder.open(tmp_path)
    assert (folder.path, values.ValueClass) == (path, value_class)
    assert request_counts(scrape(metrics)) == {("/predict", 200): 1}


def test_deleted_folder_does_not_stop_workers(folder: MetricsFolder, metrics: Metrics) -> None:
    """If the folder is deleted, earlier counts are lost, but new workers start and count."""
    folder.enter_slot(1)
    metrics.prediction_answered("/predict", 200, 0.1)
    assert folder.path is not None
    shutil.rmtree(folder.path)
    assert scrape(metrics) == {}
    folder.leave_slot(1)
    folder.enter_slot(1)
    metrics.prediction_answered("/predict", 200, 0.1)
    assert request_counts(scrape(metrics)) == {("/predict", 200): 1}
    assert folder.path.stat().st_mode & 0o777 == 0o700


def test_folder_is_accessible_only_to_its_user(folder: MetricsFolder) -> None:
    """Other users may neither read the folder nor change the counts."""
    assert folder.path is not None
    assert folder.path.stat().st_mode & 0o777 == 0o700


def test_folder_is_deleted_when_its_master_exits(tmp_path: Path) -> None:
    """A master deletes its folder when it exits, even by an exception; a worker that exits deletes nothing."""
    script = f"""
import os, sys
from pathlib import Path
from server.metrics.folder import METRICS_FOLDER
METRICS_FOLDER.open(Path({str(tmp_path)!r}))
if not os.fork():
    sys.exit()
os.wait()
print(len(os.listdir({str(tmp_path)!r})))
raise RuntimeError
"""
    process = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout) == (1, "1\n")
    assert list(tmp_path.iterdir()) == []


def test_target_of_a_symbolic_link_is_not_deleted(open_folder: OpenFolder, tmp_path: Path) -> None:
    """A symbolic link with the name of an abandoned folder is not followed, and its target stays."""
    target, link = tmp_path / "target", tmp_path / "forkcast-deadbeef"
    target.mkdir()
    link.symlink_to(target)
    open_folder()
    assert target.is_dir()
    link.unlink()
    target.rmdir()


def test_opening_sets_no_environment_variable(open_folder: OpenFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a folder sets no variable, which children of the master or a user's own metrics would inherit."""
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    initial = dict(os.environ)
    open_folder()
    assert dict(os.environ) == initial


@pytest.mark.parametrize(("blocks", "inodes"), [(10, 1000), (1000, 3)])
def test_full_shared_memory_raises_an_error(
    open_folder: OpenFolder, monkeypatch: pytest.MonkeyPatch, blocks: int, inodes: int
) -> None:
    """Without room for the files, opening the folder raises OSError, instead of SIGBUS at the first count."""
    free = SimpleNamespace(f_bavail=blocks, f_frsize=4096, f_files=1000, f_favail=inodes)
    monkeypatch.setattr(os, "statvfs", lambda _path: free)
    with pytest.raises(OSError, match="No space left on device"):
        open_folder()
