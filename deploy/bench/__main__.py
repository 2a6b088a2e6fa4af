"""`python -m deploy.bench`: what `make bench` runs. Arguments come as variables, as in `make bench QUICK=1`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from dotenv import dotenv_values

from deploy.backends.local.nginx import find_nginx
from deploy.bench.plan import Plan
from deploy.bench.report import Report, RowProgress
from deploy.bench.run import BenchRun
from deploy.bench.subject import Subject
from deploy.bench.table import Row
from deploy.bench.wrk import find_wrk
from deploy.errors import CommandError
from deploy.stack.interrupt import Interrupted, ignore, listen
from deploy.stack.machine import Machine
from deploy.stack.paths import ROOT, env_file
from server.errors import StartError
from server.settings import Settings

RESULTS = ROOT / "results"


def main() -> int:
    """Print the table and keep its figures, also where it ends early: the status is then 1, or 130 after Ctrl-C."""
    reports: list[Report] = []
    ended, status = None, 0
    listen()
    try:
        _measure(_environ(), reports)
    except Interrupted as error:
        ended, status = str(error), error.status
    except (CommandError, StartError, OSError) as error:
        ended, status = str(error), 1
    except UnicodeDecodeError:
        ended, status = f"{env_file(ROOT, os.environ)} is not UTF-8", 1
    ignore()
    if ended:
        print(f"error: {ended}", file=sys.stderr, flush=True)
    for report in reports:
        status = _finish(report, ended) or status
    return status


def _environ() -> dict[str, str]:
    """The environment and ``.env``, with paths that mean the same from any folder."""
    environ = {name: value for name, value in dotenv_values(env_file(ROOT, os.environ)).items() if value} | os.environ
    environ |= {"HOST": "", "PORT": ""}
    return environ | {"VAR_DIR": str(Settings.from_env(environ).var_dir)}


def _measure(environ: Mapping[str, str], reports: list[Report]) -> None:
    run = _prepared(environ)
    report = Report(run.subject, Machine.this(), run.plan)
    progress = RowProgress(run.replicas, run.plan)

    def keep(row: Row) -> None:
        report.rows.append(row)
        progress.tell(row)

    reports.append(report)
    run.measure(keep)


def _prepared(environ: Mapping[str, str]) -> BenchRun:
    plan = Plan.from_env(environ)
    plan.allow_files()
    wrk, nginx = find_wrk(), find_nginx()
    subject = Subject.find(environ)
    return BenchRun(wrk, nginx, plan, subject, subject.engines(Settings.from_env(environ), plan), environ)


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


if __name__ == "__main__":
    sys.exit(main())
