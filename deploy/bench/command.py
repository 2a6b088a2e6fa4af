"""The command of `make bench`. Arguments are variables, as in `make bench QUICK=1`."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from deploy.backends.local.nginx import find_nginx
from deploy.bench.plan import Plan
from deploy.bench.report import Report, RowProgress
from deploy.bench.run import BenchRun
from deploy.bench.subject import Subject
from deploy.bench.table import Row
from deploy.bench.wrk import find_wrk
from deploy.errors import CommandError
from deploy.options import BenchOptions, ModelOptions, read_environment
from deploy.stack.interrupt import Interrupted, ignore, listen
from deploy.stack.machine import Machine
from deploy.stack.paths import ROOT
from server.errors import StartError
from server.settings import Settings

RESULTS = ROOT / "results"


def main() -> int:
    """Measure, print the table and save its figures; return the exit status.

    After an error or a signal, the rows so far are printed and saved too. The status is then 1, or 130 after Ctrl-C.
    """
    reports: list[Report] = []
    error_text, status = None, 0
    listen()
    try:
        _measure(reports)
    except Interrupted as error:
        error_text, status = str(error), error.status
    except (CommandError, StartError, OSError) as error:
        error_text, status = str(error), 1
    ignore()
    if error_text:
        print(f"error: {error_text}", file=sys.stderr, flush=True)
    for report in reports:
        status = _finish(report, error_text) or status
    return status


def _measure(reports: list[Report]) -> None:
    run = _prepare(read_environment())
    report = Report(run.subject, Machine.current(), run.plan)
    progress = RowProgress(run.replicas, run.plan)

    def keep(row: Row) -> None:
        report.rows.append(row)
        progress.add(row)

    reports.append(report)
    run.measure(keep)


def replica_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for replicas that listen on a Unix socket, with VAR_DIR as an absolute path."""
    on_socket = {**variables, "HOST": "", "PORT": ""}
    return on_socket | {"VAR_DIR": str(Settings.from_env(on_socket).var_dir)}


def _prepare(variables: Mapping[str, str]) -> BenchRun:
    plan = Plan.of(BenchOptions.read(variables))
    plan.raise_open_files_limit()
    options = ModelOptions.read(replica_variables(variables))
    wrk, nginx = find_wrk(), find_nginx()
    subject = Subject.find(options)
    return BenchRun(wrk, nginx, plan, subject, subject.engines(options.settings, plan), options.environment)


def _finish(report: Report, error_text: str | None) -> int:
    # The table is printed first, so that a full disk does not lose the figures.
    if not report.rows:
        return 0
    try:
        print(report.render(), flush=True)
        print(f"written to {report.save(RESULTS, error_text)}", flush=True)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
