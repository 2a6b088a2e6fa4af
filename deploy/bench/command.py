"""The benchmark of one prediction as a command. Arguments come as variables, as in `make bench QUICK=1`."""

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
    """Print the table and keep its figures, also where it ends early: the status is then 1, or 130 after Ctrl-C."""
    reports: list[Report] = []
    ended, status = None, 0
    listen()
    try:
        _measure(reports)
    except Interrupted as error:
        ended, status = str(error), error.status
    except (CommandError, StartError, OSError) as error:
        ended, status = str(error), 1
    ignore()
    if ended:
        print(f"error: {ended}", file=sys.stderr, flush=True)
    for report in reports:
        status = _finish(report, ended) or status
    return status


def _measure(reports: list[Report]) -> None:
    run = _prepared(read_environment())
    report = Report(run.subject, Machine.current(), run.plan)
    progress = RowProgress(run.replicas, run.plan)

    def keep(row: Row) -> None:
        report.rows.append(row)
        progress.tell(row)

    reports.append(report)
    run.measure(keep)


def replica_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of replicas that listen on a socket, with paths that mean the same from any folder."""
    given = {**variables, "HOST": "", "PORT": ""}
    return given | {"VAR_DIR": str(Settings.from_env(given).var_dir)}


def _prepared(variables: Mapping[str, str]) -> BenchRun:
    plan = Plan.of(BenchOptions.read(variables))
    plan.allow_files()
    options = ModelOptions.read(replica_variables(variables))
    wrk, nginx = find_wrk(), find_nginx()
    subject = Subject.find(options)
    return BenchRun(wrk, nginx, plan, subject, subject.engines(options.settings, plan), options.environment)


def _finish(report: Report, ended: str | None) -> int:
    """Print first: a full disk must not cost the figures."""
    if not report.rows:
        return 0
    try:
        print(report.render(), flush=True)
        print(f"written to {report.save(RESULTS, ended)}", flush=True)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
