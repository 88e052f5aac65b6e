"""The cost page: a month by deployment, key and day, each sum the ledger's to the last unit. Reads only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.http import require_GET

from console import cost_chart, cost_report, formats
from console.auth import require
from console.cost_report import Days, Line, Report, month_of
from serving.idle import DRAINING, KEPT_WARM, SCALE_DOWN_DELAY, STARTING

CAUSES = (
    # cause, head of its column, what it means
    (KEPT_WARM, "Kept warm", "Idle replicas that the fewest-replicas setting keeps"),
    (SCALE_DOWN_DELAY, "Waiting", "Idle replicas above the fewest, until the scale-down delay is over"),
    (STARTING, "Starting", "From the claim of accelerators until the replica took requests"),
    (DRAINING, "Draining", "Told to stop, until its end, with no request"),
)  # fmt: skip
CSVS = (
    ("deployment", "By deployment"),
    ("key", "By API key"),
    ("user", "By person"),
    ("day", "By day"),
    ("conversation", "By my conversations"),
)
FIRST_MONTH = date(2020, 1, 1)


@require("viewer")
@require_GET
def cost(request: HttpRequest) -> HttpResponse:
    """The month in the address (`?month=2026-11`), or this one."""
    now = time.time()
    today = datetime.fromtimestamp(now, UTC).date()
    days = month_of(_month(request, today), today=today)
    found = cost_report.report("deployment", days, now=now)
    keys = cost_report.report("key", days, now=now)
    by_day = cost_report.report("day", days, now=now)
    context = {
        "days": days,
        "is_now": days.last == today,
        "earlier": _first_of_earlier(days.first),
        "later": _first_of_later(days.first) if days.last < today.replace(day=1) else None,
        "report": found,
        "total": found.total,
        "mostly": _mostly(found.total),
        "keys": keys,
        "by_day": by_day,
        "causes": CAUSES,
        "csvs": CSVS,
        "has_api_price": any(line.api_prices for line in found.lines),
        **_chart(days, found, by_day),
    }
    return render(request, "cost/cost.html", context)


def _chart(days: Days, found: Report, by_day: Report) -> dict[str, Any]:
    ledger = cost_report.by_day_and_deployment(days)
    every = _every_day(days)
    waiting = {date.fromisoformat(line.name): line.waiting_units for line in by_day.lines}
    stack = cost_chart.bars(every, ledger, deployments=found.lines, waiting=waiting)
    return {
        "stack": stack,
        "colours": cost_chart.colours(found.lines),
        "figure": cost_chart.figure_json(every, stack),
        "chart_sentence": (
            f"Spend by day from {days.first} to {days.last}: {formats.usd(found.total.total_usd)} in all"
        ),
    }


def _every_day(days: Days) -> Sequence[date]:
    return [days.first + timedelta(days=i) for i in range((days.last - days.first).days + 1)]


def _mostly(total: Line) -> str:
    """The cause that most of the idle time had, in the words of its column."""
    words = {cause: head.lower() for cause, head, _ in CAUSES}
    dearest = max(total.idle_units, key=lambda cause: total.idle_units[cause])
    return words[dearest] if total.idle_units[dearest] > 0 else ""


def _month(request: HttpRequest, today: date) -> date:
    """The first of the month asked for; this one's for none, or one that makes no sense."""
    try:
        wanted = date.fromisoformat(f"{request.GET.get('month', '')}-01")
    except ValueError:
        return today.replace(day=1)
    return wanted if FIRST_MONTH <= wanted <= today else today.replace(day=1)


def _first_of_earlier(first: date) -> date | None:
    return (first - timedelta(days=1)).replace(day=1) if first > FIRST_MONTH else None


def _first_of_later(first: date) -> date:
    return (first + timedelta(days=32)).replace(day=1)


urlpatterns = [path("cost/", cost, name="cost")]
