"""The logs tab of a deployment: the end of a log, read from Ray at every look; nothing is stored."""

from __future__ import annotations

import re
import time
from typing import Any, get_args

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path
from django.views.decorators.http import require_GET

from console import logs
from console.auth import require
from console.models import Deployment
from console.views import deployment_pages
from serving.errors import RaydeckError

LINES_SHOWN = 500
LINES_DOWNLOADED = logs.MOST_LINES
SOURCES = {"engine": "Engine", "replica": "Replica", "controller": "Controller"}
LEVELS = (
    ("E", re.compile(r"\b(?:ERROR|CRITICAL|FATAL)\b|^Traceback |^\w*(?:Error|Exception)\b")),
    ("W", re.compile(r"\bWARN(?:ING)?\b")),
    ("I", re.compile(r"\bINFO\b")),
)


@require("viewer")
@require_GET
def deployment_logs(request: HttpRequest, name: str) -> HttpResponse:
    """The tab; `?source=`, `?download=1` as plain text."""
    deployment = deployment_pages.find(name)
    if request.GET.get("download"):
        return _download(deployment, _source(request))
    context = {
        **deployment_pages.frame(deployment, "deployment-logs", time.time()),
        **_tail(deployment, _source(request), LINES_SHOWN),
    }
    return render(request, "deployments/logs.html", context)


@require("viewer")
@require_GET
def part_logs(request: HttpRequest, name: str) -> HttpResponse:
    """The lines alone, for following."""
    deployment = deployment_pages.find(name)
    context = {"deployment": deployment, **_tail(deployment, _source(request), LINES_SHOWN)}
    return render(request, "deployments/log_lines.html", context)


def level_of(line: str) -> str:
    """E, W, I, or nothing for a line that names no level."""
    return next((level for level, pattern in LEVELS if pattern.search(line)), "")


def _source(request: HttpRequest) -> logs.Source:
    wanted = request.GET.get("source", "engine")
    return next((source for source in get_args(logs.Source) if source == wanted), "engine")


def _tail(deployment: Deployment, source: logs.Source, lines: int) -> dict[str, Any]:
    base = {"sources": SOURCES.items(), "source": source, "lines_shown": lines}
    try:
        found = logs.tail(deployment=deployment, source=source, lines=lines)
    except RaydeckError as error:
        return {**base, "problem": error.message, "lines": []}
    leveled = [(level_of(line), line) for line in found.lines]
    return {
        **base,
        "tail": found,
        "lines": leveled,
        "warnings": sum(level == "W" for level, _ in leveled),
        "errors": sum(level == "E" for level, _ in leveled),
    }


def _download(deployment: Deployment, source: logs.Source) -> HttpResponse:
    try:
        found = logs.tail(deployment=deployment, source=source, lines=LINES_DOWNLOADED)
    except RaydeckError as error:
        return HttpResponse(error.message, status=503, content_type="text/plain; charset=utf-8")
    body = "\n".join(found.lines or [found.note]) + "\n"
    response = HttpResponse(body, content_type="text/plain; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{deployment.name}-{source}.log"'
    return response


urlpatterns = [
    path("deployments/<str:name>/logs/", deployment_logs, name="deployment-logs"),
    path("deployments/<str:name>/logs/lines/", part_logs, name="deployment-log-lines"),
]
