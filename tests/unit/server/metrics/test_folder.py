"""The folder where workers count: slots in place of process ids, what a worker leaves behind, and who deletes what."""

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
from server.metrics.folder import Folder
from server.settings import ROOT
from tests.support.scrapes import request_counts, samples

Open = Callable[[], Folder]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Open]:
    """Folders of masters, in this process; deleted at the end."""
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)  # a folder sets another
    folders: list[Folder] = []

    def opened() -> Folder:
        folders.append(Folder())
        folders[-1].open(tmp_path)
        return folders[-1]

    yield opened
    for folder in folders:
        folder.delete()
    assert list(tmp_path.iterdir()) == []


def scrape(metrics: Metrics) -> dict[str, float]:
    return samples(generate_latest(metrics.registry).decode())


def files(folder: Folder) -> list[str]:
    assert folder.path is not None
    return sorted(path.name for path in folder.path.iterdir())


@pytest.fixture
def folder(opened: Open) -> Folder:
    return opened()


@pytest.fixture
def metrics(folder: Folder) -> Metrics:
    """Made in the master."""
    return Metrics(folder.path)


def test_scrape_is_of_all_workers(folder: Folder, metrics: Metrics) -> None:
    """Counts, histograms and gauges of all workers add up, those in which series appeared later, too."""
    for slot in (1, 2, 3):
        folder.enter(slot)
        metrics.publish(pending=slot)
        metrics.answered("/predict", 200, 0.003)
        metrics.answered("/predict", 400 + slot, 2.0)
        metrics.waited([0.001, 0.2])
        metrics.called(2, 0.02)
    found = scrape(metrics)
    assert request_counts(found) == {("/predict", 200): 3, **{("/predict", 400 + slot): 1 for slot in (1, 2, 3)}}
    assert found['forkcast_request_seconds_bucket{le="1.0",route="/predict"}'] == 3
    assert found['forkcast_request_seconds_count{route="/predict"}'] == 6
    assert found["forkcast_wait_seconds_count"] == 6
    assert found["forkcast_wait_seconds_sum"] == pytest.approx(0.603)
    assert found["forkcast_batch_rows_sum"] == 6
    assert (found["forkcast_workers"], found["forkcast_pending_rows"]) == (3, 6)


def test_next_worker_in_a_slot_goes_on(folder: Folder, metrics: Metrics) -> None:
    """A worker that has gone takes along what it published; what it counted stays, and the next one goes on from it."""
    folder.enter(1)
    metrics.publish(pending=5)
    for _ in range(3):
        metrics.answered("/predict", 422, 0.1)
    before = files(folder)
    folder.leave(1)
    found = scrape(metrics)
    assert (found["forkcast_workers"], found["forkcast_pending_rows"]) == (0, 0)
    assert request_counts(found) == {("/predict", 422): 3}
    folder.enter(1)
    metrics.publish(pending=0)
    metrics.answered("/predict", 422, 0.1)
    found = scrape(metrics)
    assert found["forkcast_workers"] == 1
    assert request_counts(found) == {("/predict", 422): 4}
    assert found['forkcast_request_seconds_sum{route="/predict"}'] == pytest.approx(0.4)
    assert files(folder) == before


def test_a_fork_counts_for_itself(tmp_path: Path) -> None:
    """A forked process, killed in the middle of its work, leaves all that it counted, and the master's folder."""
    script = f"""
import os, signal, sys
from pathlib import Path
from server.metrics.counts import Metrics
from server.metrics.folder import FOLDER
FOLDER.open(Path({str(tmp_path)!r}))
metrics = Metrics(FOLDER.path)
for slot in (1, 2):
    if not os.fork():
        FOLDER.enter(slot)
        for _ in range(1000):
            metrics.answered("/predict", 200, 0.1)
        if slot == 1:
            sys.exit()
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
from prometheus_client.exposition import generate_latest
print(generate_latest(metrics.registry).decode(), end="")
"""
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert request_counts(samples(ran.stdout)) == {("/predict", 200): 2000}


def test_values_read_while_they_change(folder: Folder, metrics: Metrics) -> None:
    """A series is never seen with another value than it had: a count only grows while another process reads it."""
    folder.enter(1)
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
                metrics.waited([0.1])
            written += 1000
        assert reader.stdout is not None
        seen = [float(line) for line in reader.stdout]
    assert len(seen) == 200
    assert seen == sorted(seen)
    assert 0 < seen[-1] <= written


def test_many_amounts_at_once(folder: Folder, metrics: Metrics) -> None:
    """Amounts that are counted together fall into the same buckets as one after another, those on a border, too."""
    amounts = [0.0, 0.00005, 0.0000500001, 0.001, 1.0, 1.0, 9.0, 10.0, 11.0]
    folder.enter(1)
    metrics.waited(amounts)
    together = {series: value for series, value in scrape(metrics).items() if "wait_seconds" in series}
    for amount in amounts:
        metrics.called(1, amount)
    apart = {series: value for series, value in scrape(metrics).items() if "predict_seconds" in series}
    assert {series.replace("wait", "predict"): value for series, value in together.items()} == pytest.approx(apart)
    assert apart['forkcast_predict_seconds_bucket{le="5e-05"}'] == 2
    assert apart['forkcast_predict_seconds_bucket{le="10.0"}'] == 8


def test_empty_list_of_waits_changes_no_metric(folder: Folder, metrics: Metrics) -> None:
    """No amounts change nothing."""
    folder.enter(1)
    before = scrape(metrics)
    metrics.waited([])
    assert scrape(metrics) == before


def test_files_are_small(folder: Folder, metrics: Metrics) -> None:
    """With every route and many statuses, a worker takes so little that 1,000 of them fit into a container's 64 MB."""
    folder.enter(1)
    metrics.publish(0)
    for status in (200, 400, 404, 405, 413, 415, 422, 499, 500, 503):
        for route in ("/predict", "/invocations", "/v2/infer"):
            metrics.answered(route, status, 0.1)
        for route in ("/health", "/ready", "other"):
            metrics.counted(route, status)
    assert folder.path is not None
    assert sum(512 * path.stat().st_blocks for path in folder.path.glob("*_1.db")) < 64_000_000 / 1000


def test_files_of_killed_masters_are_deleted(opened: Open, tmp_path: Path) -> None:
    """The next master deletes what killed ones have left, and nothing that is in use."""
    script = f"""
import os, signal
from pathlib import Path
from server.metrics.counts import Metrics
from server.metrics.folder import FOLDER
FOLDER.open(Path({str(tmp_path)!r}))
Metrics(FOLDER.path)
os.kill(os.getpid(), signal.SIGKILL)
"""
    first = opened()
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    (left,) = set(tmp_path.iterdir()) - {first.path}
    assert list(left.iterdir())
    second = opened()
    assert set(tmp_path.iterdir()) == {first.path, second.path}


def test_reload_changes_nothing(folder: Folder, metrics: Metrics, tmp_path: Path) -> None:
    """A master that reads its configuration again keeps its folder and what is in it."""
    folder.enter(1)
    metrics.answered("/predict", 200, 0.1)
    path, kind = folder.path, values.ValueClass
    folder.open(tmp_path)
    assert (folder.path, values.ValueClass) == (path, kind)
    assert request_counts(scrape(metrics)) == {("/predict", 200): 1}


def test_deleted_folder_does_not_stop_workers(folder: Folder, metrics: Metrics) -> None:
    """Where the folder was deleted, what was counted is lost, and workers come up and count all the same."""
    folder.enter(1)
    metrics.answered("/predict", 200, 0.1)
    assert folder.path is not None
    shutil.rmtree(folder.path)
    assert scrape(metrics) == {}
    folder.leave(1)
    folder.enter(1)
    metrics.answered("/predict", 200, 0.1)
    assert request_counts(scrape(metrics)) == {("/predict", 200): 1}
    assert folder.path.stat().st_mode & 0o777 == 0o700


def test_folder_is_for_its_user_alone(folder: Folder) -> None:
    """Nobody else may look into the folder or change what is counted."""
    assert folder.path is not None
    assert folder.path.stat().st_mode & 0o777 == 0o700


def test_folder_goes_with_its_process(tmp_path: Path) -> None:
    """A master that ends by itself leaves nothing, however it ends, and the end of a worker deletes nothing."""
    script = f"""
import os, sys
from pathlib import Path
from server.metrics.folder import FOLDER
FOLDER.open(Path({str(tmp_path)!r}))
if not os.fork():
    sys.exit()
os.wait()
print(len(os.listdir({str(tmp_path)!r})))
raise RuntimeError
"""
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, "1\n")
    assert list(tmp_path.iterdir()) == []


def test_linked_folders_are_not_deleted(opened: Open, tmp_path: Path) -> None:
    """A link that is called like a folder of ours is none: what it leads to is left alone."""
    treasure, link = tmp_path / "treasure", tmp_path / "forkcast-deadbeef"
    treasure.mkdir()
    link.symlink_to(treasure)
    opened()
    assert treasure.is_dir()
    link.unlink()
    treasure.rmdir()


def test_environment_stays_as_it_is(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable is set that a child of the master, or a user's own metrics, would stumble over."""
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    before = dict(os.environ)
    opened()
    assert dict(os.environ) == before


@pytest.mark.parametrize(("blocks", "inodes"), [(10, 1000), (1000, 3)])
def test_full_disk_is_an_error_not_a_signal(
    opened: Open, monkeypatch: pytest.MonkeyPatch, blocks: int, inodes: int
) -> None:
    """Where there is no room for the files, that is an error, and not a signal at the first count."""
    free = SimpleNamespace(f_bavail=blocks, f_frsize=4096, f_files=1000, f_favail=inodes)
    monkeypatch.setattr(os, "statvfs", lambda _path: free)
    with pytest.raises(OSError, match="No space left on device"):
        opened()
