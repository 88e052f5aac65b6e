"""What the frame around every page shows: navigation with counts, the cluster's state, the person.

A context processor; evaluated only when a template asks for it, with three cheap queries whatever the number
of deployments. It must not talk to Ray: it shows what the workers last saw, with its age.
"""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.functional import SimpleLazyObject

from console import formats
from console.auth import role_allows
from console.models import ClusterStatus, Deployment, RegisteredModel
from serving.observed import STALE_AFTER_S

MAIN = (
    # section, URL name, label, label on a phone, icon
    ("overview", "overview", "Overview", "Overview", "layout-dashboard"),
    ("deployments", "deployments", "Deployments", "Deploys", "rocket"),
    ("models", "models", "Models", "Models", "box"),
    ("playground", "playground", "Playground", "Chat", "messages-square"),
    ("cost", "cost", "Cost", "Cost", "wallet"),
)
NOT_ON_PHONE_BAR = "models"
"""Five fit with “More”, where this one stands instead."""
MANAGE = (
    ("accelerators", "accelerators", "Accelerators", "Accelerators", "cpu"),
    ("alerts", "alerts", "Alerts", "Alerts", "triangle-alert"),
    ("requests", "requests", "Requests", "Requests", "clock"),
    ("routing", "routing", "Routing", "Routing", "sliders-horizontal"),
    ("activity", "activity", "Activity", "Activity", "activity"),
    ("keys", "keys", "API keys", "Keys", "key-round"),
    ("api", "api-docs", "API reference", "API", "book-open"),
)
SECTION_OF_PREFIX = {
    "overview": "overview",
    "deployment": "deployments",
    "model": "models",
    "playground": "playground",
    "conversation": "playground",
    "accelerator": "accelerators",
    "alert": "alerts",
    "request": "requests",
    "routing": "routing",
    "activity": "activity",
    "cost": "cost",
    "key": "keys",
    "token": "keys",
    "user": "keys",
    "profile": "keys",
}


def shell(request: HttpRequest) -> dict[str, Any]:
    """Template context `shell`; empty for people who are not logged in."""
    return {"shell": SimpleLazyObject(lambda: _shell_of(request))}


def _shell_of(request: HttpRequest) -> dict[str, Any]:
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return {}
    section = _section(request)
    counts = {"deployments": Deployment.objects.count(), "models": RegisteredModel.objects.count()}
    nav, manage = _items(MAIN, section, counts), _items(MANAGE, section, counts)
    return {
        "nav": nav,
        "manage": manage,
        "tabs": [item for item in nav if item["key"] != NOT_ON_PHONE_BAR],
        "more": [*(item for item in nav if item["key"] == NOT_ON_PHONE_BAR), *manage],
        "cluster": cluster_summary(time.time()),
        "initial": (user.get_username() or "?")[0].upper(),
        "can_operate": role_allows(user.role, "operator"),
        "can_administer": role_allows(user.role, "admin"),
    }


def _section(request: HttpRequest) -> str:
    name = (request.resolver_match.url_name or "") if request.resolver_match else ""
    return next((sec for prefix, sec in SECTION_OF_PREFIX.items() if name.startswith(prefix)), "")


def _items(table: Any, section: str, counts: dict[str, int]) -> list[dict[str, Any]]:
    items = []
    for key, url_name, label, short, icon in table:
        try:
            url = reverse(url_name)
        except NoReverseMatch:
            continue  # only pages that exist are offered
        items.append(
            {
                "key": key,
                "url": url,
                "label": label,
                "short": short,
                "icon": icon,
                "count": counts.get(key),
                "current": key == section,
            }
        )
    return items


def cluster_summary(now: float) -> dict[str, Any]:
    """The cluster's box in the sidebar: name, detail, `state` (ok, warn, bad), `problem` in words."""
    row = ClusterStatus.objects.filter(pk=1).first()
    where = urlsplit(settings.RAY_DASHBOARD_URL)
    name = "This machine" if settings.RAY_IS_EMBEDDED else (where.hostname or "Ray cluster")
    if row is None or row.observed_at is None:
        return {"name": name, "state": "warn", "detail": "not seen yet", "problem": "", "age_s": None}
    age_s = max(0.0, now - row.observed_at)
    seen = formats.duration(age_s)
    if not row.reachable:
        problem = (
            f"Ray cannot be reached: {row.error or 'no answer'}. What is shown was last seen {seen} ago."
        )
        return {"name": name, "state": "bad", "detail": "not reachable", "problem": problem, "age_s": age_s}
    if age_s > STALE_AFTER_S:
        problem = f"Nothing was observed for {seen}: the worker may be down. Values shown are from then."
        return {
            "name": name,
            "state": "warn",
            "detail": f"last seen {seen} ago",
            "problem": problem,
            "age_s": age_s,
        }
    alive = sum(1 for node in row.nodes if node.get("alive", True))
    detail = f"Ray {row.ray_version} · {alive} node{'' if alive == 1 else 's'}"
    problem = ""
    if row.rejected_message and row.rejected_digest:
        problem = f"Ray rejected the last configuration: {row.rejected_message[:300]}"
    return {
        "name": name,
        "state": "warn" if problem else "ok",
        "detail": detail,
        "problem": problem,
        "age_s": age_s,
    }
