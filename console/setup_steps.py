"""The steps of a first run, each checked against what really is. Reads the database only.

What Ray and the gateway say comes from the workers' last observation, so the page answers at once.
"""

from __future__ import annotations

from typing import Any

from django.urls import reverse

from console import formats, states
from console.models import ApiKey, Deployment, KeyKind, RegisteredModel, RequestRecord


def context(now: float) -> dict[str, Any]:
    """Template context: the steps, the first undone one marked as the present one."""
    cluster = states.cluster_state(now)
    steps = [
        _ray(cluster),
        _gateway(cluster),
        _model(),
        _deployment(),
        _key(),
        _chat(),
    ]
    present = next((step for step in steps if not step["done"]), None)
    for step in steps:
        step["state"] = "done" if step["done"] else "now" if step is present else "next"
    return {"steps": steps, "cluster": cluster, "models": RegisteredModel.objects.all()[:3]}


def _ray(cluster: dict[str, Any]) -> dict[str, Any]:
    nodes = [node for node in cluster["nodes"] if node.get("alive", True)]
    if cluster["reachable"]:
        detail = f"Ray {cluster['ray_version']} answers: {hardware_words(nodes)}"
    elif cluster["age_s"] is None:
        detail = "Not seen yet. It is looked for every five seconds."
    else:
        detail = cluster["error"] or f"Last answer {formats.duration(cluster['age_s'])} ago"
    return {"done": cluster["reachable"], "title": "Connect to Ray", "detail": detail}


def _gateway(cluster: dict[str, Any]) -> dict[str, Any]:
    ready = cluster["reachable"] and cluster["gateway_ready"]
    detail = (
        f"Answers at {cluster['base_url']}"
        if ready
        else f"Starting; Ray says {cluster['gateway_status'] or 'nothing of it yet'}"
    )
    return {"done": ready, "title": "Start the gateway", "detail": detail}


def _model() -> dict[str, Any]:
    names = list(RegisteredModel.objects.values_list("name", flat=True)[:4])
    detail = f"Registered: {', '.join(names)}" if names else "A local folder, a hub id or an object store"
    return {
        "done": bool(names),
        "title": "Register a model",
        "detail": detail,
        "url": reverse("model-new"),
        "action": "Register a model",
    }


def _deployment() -> dict[str, Any]:
    newest = Deployment.objects.order_by("-created_at").first()
    first = RegisteredModel.objects.order_by("created_at").first()
    asked = f"?model={first.name}&name={first.name}" if first else ""
    return {
        "done": newest is not None,
        "title": "Deploy a model",
        "detail": f"{newest.name} is deployed"
        if newest
        else "Choose a topology that fits and what it may cost",
        "url": reverse("deployment-new") + asked,
        "action": f"Deploy {first.name}" if first else "New deployment",
    }


def _key() -> dict[str, Any]:
    count = ApiKey.objects.filter(kind=KeyKind.USER, revoked_at=None).count()
    return {
        "done": count > 0,
        "title": "Create an API key",
        "detail": f"{count} in use" if count else "For the OpenAI-compatible address; shown once",
        "url": reverse("keys"),
        "action": "Create a key",
    }


def _chat() -> dict[str, Any]:
    answered = RequestRecord.objects.of_callers().filter(outcome="ok").exists()
    return {
        "done": answered,
        "title": "Chat with it",
        "detail": "The first answer was given" if answered else "Send a prompt, see its time to first token",
        "url": reverse("playground"),
        "action": "Open the playground",
    }


def hardware_words(nodes: list[dict[str, Any]]) -> str:
    """Such as "2 nodes, 16 × H100, 384 CPU cores"."""
    totals: dict[str, int] = {}
    for node in nodes:
        for kind, amount in node.get("accelerators", {}).items():
            totals[kind] = totals.get(kind, 0) + int(amount)
    words = [f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}"]
    words += [f"{amount} × {kind}" for kind, amount in sorted(totals.items())]
    words.append(f"{sum(int(node.get('cpus', 0)) for node in nodes)} CPU cores")
    return ", ".join(words)
