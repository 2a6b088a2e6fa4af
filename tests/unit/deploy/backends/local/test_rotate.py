"""Tests of the rotation of the access log."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from server.settings import ROOT
from tests.support.waiting import wait_until


def test_large_log_is_renamed_and_nginx_signalled(tmp_path: Path) -> None:
    """A log over the limit is renamed, and the process in Nginx's pid file gets SIGUSR1."""
    (tmp_path / "log").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "log/access.log").write_text("x" * 100)
    fake_nginx = subprocess.Popen(
        ["sh", "-c", 'trap "touch reopened; exit" USR1; touch armed; while :; do sleep 0.05; done'], cwd=tmp_path
    )
    rotation = None
    try:
        wait_until((tmp_path / "armed").exists)
        (tmp_path / "run/nginx.pid").write_text(str(fake_nginx.pid))
        rotation = subprocess.Popen(["sh", str(ROOT / "deploy/backends/local/rotate.sh"), "0.1", "50"], cwd=tmp_path)
        assert fake_nginx.wait(30) == 0
        assert (tmp_path / "reopened").exists()
        assert (tmp_path / "log/access.log.1").read_text() == "x" * 100
        assert not (tmp_path / "log/access.log").exists()
    finally:
        fake_nginx.kill()
        fake_nginx.wait()
        if rotation is not None:
            rotation.kill()
            rotation.wait()


def test_small_log_is_left_alone(tmp_path: Path) -> None:
    """A log under the limit is not renamed."""
    (tmp_path / "log").mkdir()
    (tmp_path / "log/access.log").write_text("x")
    rotation = subprocess.Popen(["sh", str(ROOT / "deploy/backends/local/rotate.sh"), "0.01", "50"], cwd=tmp_path)
    try:
        time.sleep(0.3)
        assert (tmp_path / "log/access.log").read_text() == "x"
    finally:
        rotation.kill()
        rotation.wait()
