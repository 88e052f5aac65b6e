"""The chat playground's pages: a new chat, a kept one, and the switch for keeping them.

The talking itself goes over the WebSocket (console/chat.py); these pages are what it begins from.
"""

from __future__ import annotations

import json
import logging
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBadRequest, JsonResponse
from django.shortcuts import redirect, render
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

from console import conversations, formats, states
from console.auth import require
from console.chat_stats import with_engine
from console.firstrun import DEMO_FOLDER
from console.models import Conversation, RegisteredModel

log = logging.getLogger(__name__)

USABLE = ("ready", "asleep")
SUGGESTIONS_PATH = DEMO_FOLDER.parent / "suggestions.json"
DEFAULTS = {"system": "", "temperature": "0.3", "top_p": "0.95", "max_tokens": "512", "seed": ""}


@require("viewer")
@require_GET
def playground(request: HttpRequest) -> HttpResponse:
    """A new chat; `?a=` names the deployment."""
    return _page(request, None)


@require("viewer")
@require_GET
def conversation(request: HttpRequest, conversation_id: int) -> HttpResponse:
    """A kept chat of one's own."""
    found = conversations.find(user=request.user, conversation_id=conversation_id)  # type: ignore[arg-type]
    if found is None:
        raise Http404("There is no such conversation.")
    return _page(request, found)


@require("viewer")
@require_POST
def conversation_delete(request: HttpRequest, conversation_id: int) -> HttpResponse:
    """Delete a chat of one's own with all it holds."""
    if not conversations.delete(user=request.user, conversation_id=conversation_id):  # type: ignore[arg-type]
        raise Http404("There is no such conversation.")
    messages.success(request, "The conversation is deleted.")
    return redirect("playground")


@require("viewer")
@require_POST
def history(request: HttpRequest) -> HttpResponse:
    """Turn keeping one's chats on (`keep=1`) or off (`keep=0`)."""
    wanted = request.POST.get("keep")
    if wanted not in ("0", "1"):
        return HttpResponseBadRequest("keep must be 0 or 1.", content_type="text/plain")
    if wanted == "1" and not settings.CHAT_HISTORY:
        return HttpResponseBadRequest("Chat history is off for this installation.", content_type="text/plain")
    conversations.set_keep_history(user=request.user, keep=wanted == "1")  # type: ignore[arg-type]
    if "application/json" in request.headers.get("Accept", ""):
        return JsonResponse({"keep": wanted == "1"})
    return redirect("playground")


@require("viewer")
@require_GET
def choices(request: HttpRequest) -> HttpResponse:
    """The deployments to choose from, as a fragment; fetched again when a state changed."""
    return render(request, "playground/choices.html", {"choices": _choices(time.time())})


@require("viewer")
@require_GET
def conversation_list(request: HttpRequest) -> HttpResponse:
    """One's kept chats, as a fragment; fetched again when a new one began."""
    context = {"recent": conversations.recent(request.user)}  # type: ignore[arg-type]
    return render(request, "playground/conversations.html", context)


@require("viewer")
@require_GET
def request_figures(request: HttpRequest, request_id: str) -> HttpResponse:
    """The engine's figures for one of one's own requests, once its usage record has arrived."""
    figures = conversations.engine_figures(user=request.user, request_ids=[request_id])  # type: ignore[arg-type]
    return JsonResponse({"known": request_id in figures, **figures.get(request_id, {})})


def _page(request: HttpRequest, found: Conversation | None) -> HttpResponse:
    offered = _choices(time.time())
    exchanges = conversations.exchanges(found) if found else []
    keeps = conversations.keeps_history(request.user)  # type: ignore[arg-type]
    context = {
        "conversation": found,
        "exchanges": exchanges,
        "recent": conversations.recent(request.user),  # type: ignore[arg-type]
        "choices": offered,
        "suggestions": _suggestions(offered),
        "keeps_history": keeps,
        "history_allowed": settings.CHAT_HISTORY,
        "base_url": f"{settings.GATEWAY_URL.rstrip('/')}/v1",
        "defaults": DEFAULTS,
        "initial": (request.user.get_username() or "?")[0].upper(),
        "data": {
            "conversation_id": found.pk if found else None,
            "deployment": _deployment(request, found, offered),
            "settings": found.settings if found else None,
            "keeps_history": keeps,
            "replies": _replies(request, exchanges),
        },
    }
    return render(request, "playground/chat.html", context)


def _replies(
    request: HttpRequest, exchanges: list[conversations.Exchange]
) -> dict[int, list[dict[str, Any]]]:
    """Answers by the number of their question, with the engine's figures where they have arrived."""
    ids = [str(reply.stats.get("request_id") or "") for one in exchanges for reply in one.replies]
    figures = conversations.engine_figures(user=request.user, request_ids=ids)  # type: ignore[arg-type]
    return {
        one.question.pk: [
            {
                "text": reply.content,
                "state": reply.state,
                "stats": with_engine(reply.stats, figures.get(reply.stats.get("request_id", ""))),
            }
            for reply in one.replies
        ]
        for one in exchanges
    }


def _choices(now: float) -> list[dict[str, Any]]:
    """Every deployment one can talk to, the usable ones first, each with why it cannot be used or what to
    expect. Models for embeddings and scores are no partners to talk to."""
    found = [_choice(state) for state in states.deployment_states(now) if state["task"] == "generate"]
    return sorted(
        found, key=lambda choice: (not choice["usable"], choice["phase"] != "ready", choice["name"])
    )


def _choice(state: dict[str, Any]) -> dict[str, Any]:
    per_replica = state["price_per_accelerator_hour_usd"] * state["accelerators_per_replica"]
    return {
        "name": state["name"],
        "model": state["model"],
        "phase": state["phase"],
        "label": state["phase_label"],
        "colour": state["colour"],
        "usable": state["phase"] in USABLE,
        "why": _why(state),
        "price": f"{formats.rate(per_replica)} per replica",
        "context_tokens": state["engine"].get("max_model_len", 0),
    }


def _why(state: dict[str, Any]) -> str:
    if state["phase"] == "ready":
        return ""
    if state["phase"] == "asleep":
        usual = state["ready_in_s"]
        return "The first message wakes it" + (f", about {formats.duration(usual)}." if usual else ".")
    return state["reason"] or {"stopped": "Start it to chat."}.get(state["phase"], "Not ready yet.")


def _deployment(
    request: HttpRequest, found: Conversation | None, offered: list[dict[str, Any]]
) -> str | None:
    names = {choice["name"] for choice in offered}
    for wanted in (
        request.GET.get("a"),
        request.GET.get("deployment"),
        found.deployment_name if found else None,
    ):
        if wanted is not None and wanted in names:
            return wanted
    return offered[0]["name"] if offered and offered[0]["usable"] else None


def _suggestions(offered: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Questions the demo model was trained to answer, for the deployments that serve it."""
    demo = set(RegisteredModel.objects.filter(source=str(DEMO_FOLDER)).values_list("name", flat=True))
    names = [choice["name"] for choice in offered if choice["model"] in demo]
    questions = _demo_questions(SUGGESTIONS_PATH) if names else []
    return {name: questions for name in names} if questions else {}


@lru_cache(maxsize=1)
def _demo_questions(source: Path) -> list[str]:
    try:
        return [str(question) for question in json.loads(source.read_text())]
    except (OSError, ValueError) as error:
        log.warning("no suggested questions: %s (%s)", source.name, type(error).__name__)
        return []


urlpatterns = [
    path("playground/", playground, name="playground"),
    path("playground/choices/", choices, name="playground-choices"),
    path("playground/conversations/", conversation_list, name="playground-conversations"),
    path("playground/history/", history, name="playground-history"),
    path("playground/requests/<str:request_id>/", request_figures, name="playground-request"),
    path("playground/<int:conversation_id>/", conversation, name="conversation"),
    path("playground/<int:conversation_id>/delete/", conversation_delete, name="conversation-delete"),
]
