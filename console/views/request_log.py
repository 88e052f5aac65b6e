"""The request log: every request to the gateway, why it took as long as it did. Reads only."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.utils.http import urlencode
from django.views.decorators.http import require_GET

from console import request_log
from console.auth import require
from console.models import ApiKey, Deployment, RequestRecord

PER_PAGE = 50
WINDOWS = {"1h": ("Last hour", 3600), "24h": ("Last 24 hours", 86_400), "7d": ("Last 7 days", 604_800)}
WINDOWS |= {"30d": ("Last 30 days", 2_592_000), "all": ("All there are", 0)}
OUTCOMES = {
    "": "Any outcome",
    "ok": "Answered",
    "failed": "Failed",
    "refused": "Refused",
    "aborted": "Left by the caller",
}
SPEEDS = {"": "Any speed", "p95": "Above its p95", "over": "Longer than …"}
PILLS = {
    # outcome -> status phase whose look it takes, word
    "ok": ("ready", "Answered"),
    "error": ("failed", "Failed"),
    "aborted": ("stopped", "Left"),
    "refused": ("stopped", "Refused"),
}


@dataclass(frozen=True)
class Asked:
    """What the address asks for, with what of it could not be read."""

    filters: request_log.Filters
    shown: dict[str, str]
    problem: str

    @property
    def is_narrowed(self) -> bool:
        """Whether anything but the window was chosen."""
        return any(value for name, value in self.shown.items() if name != "window")


@require("viewer")
@require_GET
def requests(request: HttpRequest) -> HttpResponse:
    """The log; `?deployment=&key=&outcome=&speed=&over_s=&window=`, newest first."""
    now = time.time()
    asked = _asked(request, now)
    found = request_log.rows(asked.filters, now=now)
    try:
        rows, following = request_log.page(found, before=request.GET.get("before") or None, limit=PER_PAGE)
    except request_log.BadCursor:
        rows, following = request_log.page(found, before=None, limit=PER_PAGE)
    chosen = {name: value for name, value in asked.shown.items() if value}
    context = {
        "rows": [_row(row) for row in rows],
        "asked": asked,
        "shown": asked.shown,
        "deployments": list(Deployment.objects.values_list("name", flat=True)),
        "keys": list(ApiKey.objects.order_by("name").values("pk", "name", "revoked_at")),
        "outcomes": OUTCOMES,
        "speeds": SPEEDS,
        "windows": {key: words for key, (words, _) in WINDOWS.items()},
        "older": f"?{urlencode({**chosen, 'before': following})}" if following else "",
        "newest": f"?{urlencode(chosen)}" if request.GET.get("before") else "",
    }
    return render(request, "requests/list.html", context, status=400 if asked.problem else 200)


@require("viewer")
@require_GET
def request_detail(request: HttpRequest, request_id: str) -> HttpResponse:
    """One request: its parts, its tokens, what else its replica was doing."""
    found = request_log.find(request_id)
    if found is None:
        raise Http404("There is no such request, or its record has not arrived yet (a second or two).")
    context = {
        **_row(found),
        "bars": request_log.bars(found),
        "neighbours": request_log.neighbours(found),
        "exists": Deployment.objects.filter(name=found.deployment_name).exists(),
    }
    return render(request, "requests/detail.html", context)


def _row(row: RequestRecord) -> dict[str, Any]:
    failed = row.outcome == "error" or row.status >= 500
    phase, word = PILLS["error"] if failed else PILLS.get(row.outcome, ("unknown", row.outcome))
    return {"record": row, "phase": phase, "word": word}


def _asked(request: HttpRequest, now: float) -> Asked:
    given = request.GET
    window = given.get("window", "7d")
    window = window if window in WINDOWS else "7d"
    outcome = given.get("outcome", "")
    outcome = outcome if outcome in OUTCOMES else ""
    speed = given.get("speed", "")
    speed = speed if speed in SPEEDS else ""
    key = given.get("key", "")
    key = key if key.isdecimal() and len(key) < 10 else ""
    over, problem = _seconds(given.get("over_s", "")) if speed == "over" else (None, "")
    length_s = WINDOWS[window][1]
    shown = {
        "deployment": given.get("deployment", "")[:100].replace("\0", ""),
        "key": key,
        "outcome": outcome,
        "speed": speed,
        "over_s": given.get("over_s", "")[:20] if speed == "over" else "",
        "window": window,
    }
    filters = request_log.Filters(
        deployment=shown["deployment"] or None,
        key_id=int(key) if key else None,
        outcome=outcome if outcome and outcome != "failed" else None,
        failed=outcome == "failed",
        slower_than_s=over,
        slower_than_p95=speed == "p95",
        since=now - length_s if length_s else None,
    )
    return Asked(filters, shown, problem)


def _seconds(text: str) -> tuple[float | None, str]:
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        return None, "Longer than: write seconds, such as 2.5."
    if not math.isfinite(value) or value < 0:
        return None, "Longer than: write seconds from 0 on, such as 2.5."
    return value, ""


urlpatterns = [
    path("requests/", requests, name="requests"),
    path("requests/<str:request_id>/", request_detail, name="request"),
]
