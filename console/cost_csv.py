"""A cost report as CSV: exact dollars with every digit, a row per line of the report and one for the sum."""

from __future__ import annotations

import csv
import io
from decimal import Decimal

from console.cost_report import Line, Report
from serving.idle import IDLE_CAUSES

COLUMNS = (
    "name",
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "total_usd",
    "request_usd",
    *(f"idle_{cause}_usd" for cause in IDLE_CAUSES),
    "not_shared_out_usd",
    "usd_per_million_output_tokens",
    "usd_per_million_output_tokens_at_80_percent_load",
    "api_usd",
    "api_difference_usd",
)
FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r")


def as_csv(report: Report) -> str:
    """The whole text, with a head and a last line named `total`."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow((report.by, *COLUMNS[1:]))
    for line in (*report.lines, report.total):
        writer.writerow(_row(line))
    return text.getvalue()


def file_name(report: Report) -> str:
    """Such as cost-by-key-2026-11-01-to-2026-11-30.csv."""
    return f"cost-by-{report.by}-{report.days.first}-to-{report.days.last}.csv"


def _row(line: Line) -> list[str | int]:
    return [
        _harmless(line.name),
        line.requests,
        line.prompt_tokens,
        line.cached_tokens,
        line.completion_tokens,
        _text(line.total_usd),
        _text(line.request_usd),
        *(_text(line.idle_usd[cause]) for cause in IDLE_CAUSES),
        _text(line.waiting_usd),
        _text(line.usd_per_million),
        _text(line.usd_per_million_at_good_load),
        _text(line.api_usd),
        _text(line.api_difference_usd),
    ]


def _text(usd: Decimal | None) -> str:
    return "" if usd is None else format(usd, "f")


def _harmless(name: str) -> str:
    """A name that callers chose must not become a formula where the file is opened."""
    return f"'{name}" if name.startswith(FORMULA_BEGINS) else name
