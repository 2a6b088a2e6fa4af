"""Options of our own, on the command line and in Locust's UI, beside Locust's for users, spawn rate and run time."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from failures import CannotStartError

CLIENTS = ("light", "fast", "batch")
TARGETS = ("/predict", "/null")
# More rows a request than any service takes.
MOST_ROWS = 100_000


def add_options(parser: Any) -> None:
    """Add them; each has a variable too, as Locust's own. The page starts with a test that any machine can run."""
    parser.set_defaults(num_users=100, spawn_rate=10)

    def option(name: str, default: object, meaning: str, **more: object) -> None:
        variable = f"LOCUST_{name.upper().replace('-', '_')}"
        kind = {} if default is False else {"type": type(default)}
        parser.add_argument(f"--{name}", env_var=variable, default=default, help=meaning, **kind, **more)

    option("client", "light", "light: prepared bytes; fast: FastHttpUser; batch: many rows a request", choices=CLIENTS)
    option("batch-rows", 32, "Rows a request, for the client 'batch'")
    option("timeout", 10.0, "Seconds after which a request has failed")
    option("wait-min", 1.0, "Shortest pause of a user between two requests, in seconds")
    option("wait-max", 2.5, "Longest pause of a user between two requests, in seconds")
    option("target", "/predict", "/null: the balancer's constant answer, to calibrate the generator", choices=TARGETS)
    option(
        "data",
        "",
        "CSV or CSV.gz to take rows from; empty: rows drawn within the ranges that the model's training observed",
    )
    option("step-users", 0, "Users added a step, to the number of users (500: the lab's ladder); 0: all at once")
    option("step-seconds", 30.0, "Seconds that a step is held, once all of its users run")
    option("record", False, "Print a line of JSON for each second", action="store_true", include_in_web_ui=False)


def check_options(options: Namespace) -> None:
    """Refuse what no test can be made of; the UI itself checks nothing.

    Raises:
        CannotStartError: naming the option, its value and what was expected.
    """
    rules = (
        ("--users", options.num_users, options.num_users >= 1, "at least 1"),
        ("--spawn-rate", options.spawn_rate, options.spawn_rate > 0, "more than 0"),
        ("--client", options.client, options.client in CLIENTS, f"one of {', '.join(CLIENTS)}"),
        ("--target", options.target, options.target in TARGETS, f"one of {', '.join(TARGETS)}"),
        ("--batch-rows", options.batch_rows, 1 <= options.batch_rows <= MOST_ROWS, f"from 1 to {MOST_ROWS}"),
        ("--timeout", options.timeout, options.timeout > 0, "more than 0"),
        ("--wait-min", options.wait_min, options.wait_min >= 0, "at least 0"),
        ("--wait-max", options.wait_max, options.wait_max >= options.wait_min, "at least --wait-min"),
        ("--step-users", options.step_users, options.step_users >= 0, "at least 0"),
        ("--step-seconds", options.step_seconds, options.step_seconds > 0, "more than 0"),
    )
    for name, value, good, expected in rules:
        if not good:
            raise CannotStartError(f"{name} {value}: expected {expected}")
