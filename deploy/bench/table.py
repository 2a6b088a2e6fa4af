"""Rows as a table in Markdown, its columns wide enough to be read as they are."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.bench.row import Row

_HEAD = (
    "engine", "workers", "request", "connections", "answers/s", "P50 ms", "P99 ms", "server CPU us", "x /health",
    "Nginx CPU us", "balance", "PSS MB", "errors",
)  # fmt: skip
_WORDS = {"engine", "request"}  # to the left; numbers to the right


def table(rows: Sequence[Row]) -> str:
    """All of them, in their order."""
    return markdown(_HEAD, [_cells(row) for row in rows])


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the columns called ``engine`` and ``request`` hold words, the others numbers."""
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    rule = [
        "-" * width if name in _WORDS else "-" * (width - 1) + ":" for name, width in zip(head, widths, strict=True)
    ]
    lines = [_padded(head, line, widths) for line in [head, *body]]
    lines.insert(1, rule)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    answers = row.answers
    return (
        row.engine, str(row.workers), row.request, str(row.connections), f"{answers.rate:.0f}", f"{answers.p50:.2f}",
        f"{answers.p99:.2f}", f"{row.server_us:.0f}", _ratio(row.ratio), f"{row.nginx_us:.0f}", _ratio(row.balance),
        f"{row.pss / 1e6:.1f}", str(row.errors),
    )  # fmt: skip


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _padded(head: Sequence[str], line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.ljust(width) if name in _WORDS else cell.rjust(width)
        for name, cell, width in zip(head, line, widths, strict=True)
    ]
