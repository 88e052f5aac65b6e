"""Kept conversations: reading and writing Conversation and ChatMessage, always for one user's own rows.

Nothing here is called per token, and nothing is written for a user (or an installation) with history off.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from console import request_log, spending
from console.chat_request import ChatRequest
from console.models import ChatMessage, Conversation, RequestRecord, User
from serving.cost import in_usd

TITLE_CHARACTERS = 60
LISTED = 100


@dataclass
class Exchange:
    """One question and its answers; more than one answer means it was regenerated, the last is current."""

    question: ChatMessage
    replies: list[ChatMessage] = field(default_factory=list)


def keeps_history(user: User) -> bool:
    """Whether this user's chats are stored: the installation allows it and the user has it on."""
    return bool(settings.CHAT_HISTORY and user.keep_chat_history)


def set_keep_history(*, user: User, keep: bool) -> None:
    """Turn the user's own switch; conversations that are already kept stay until deleted."""
    User.objects.filter(pk=user.pk).update(keep_chat_history=keep)


def recent(user: User) -> QuerySet[Conversation]:
    """The user's conversations, latest first."""
    return Conversation.objects.filter(user=user).order_by("-updated_at")[:LISTED]


def find(*, user: User, conversation_id: int) -> Conversation | None:
    """The user's conversation with this number, or None: other people's do not exist for them."""
    return Conversation.objects.filter(user=user, pk=conversation_id).first()


def exchanges(conversation: Conversation) -> list[Exchange]:
    """The conversation as questions with their answers, in order."""
    found: list[Exchange] = []
    for message in conversation.messages.all():
        if message.role == "user":
            found.append(Exchange(message))
        elif found:
            found[-1].replies.append(message)
    return found


def delete(*, user: User, conversation_id: int) -> bool:
    """Delete the conversation with all it holds; False when the user has none of that number."""
    deleted, _ = Conversation.objects.filter(user=user, pk=conversation_id).delete()
    return deleted > 0


@transaction.atomic
def begin_turn(*, user: User, request: ChatRequest) -> Conversation | None:
    """Store the question before it is sent and return its conversation; None when history is off.

    A new conversation is named by its first message. One that no longer exists is begun anew with everything
    the page still shows of it, so that a later question keeps its sense.
    """
    if not keeps_history(user):
        return None
    conversation = None
    if request.conversation_id is not None:
        conversation = find(user=user, conversation_id=request.conversation_id)
    if conversation is None:
        return _new_conversation(user=user, request=request)
    conversation.deployment_name = request.deployment
    conversation.settings = request.settings()
    conversation.save(update_fields=["deployment_name", "settings", "updated_at"])
    if not request.regenerate:
        ChatMessage.objects.create(conversation=conversation, role="user", content=request.question)
    return conversation


@transaction.atomic
def add_reply(*, conversation_id: int, content: str, state: str, stats: dict[str, Any]) -> ChatMessage | None:
    """Store an answer, whole or partial; None when the conversation was deleted in the meantime."""
    found = Conversation.objects.filter(pk=conversation_id).update(updated_at=timezone.now())
    if not found:
        return None
    return ChatMessage.objects.create(
        conversation_id=conversation_id, role="assistant", content=content, state=state, stats=stats
    )


def engine_figures(*, user: User, request_ids: list[str]) -> dict[str, dict[str, Any]]:
    """What the usage records say of the user's own requests: `engine_ttft_s` (queue + prefill on the engine's
    clock), `prompt_tokens` and `completion_tokens` as the engine counted, an aborted reply's too, the `parts`
    of the request's time, and `allocated_usd`, its share of its replica's cost as text. A record arrives a
    second or two after its reply, its share some minutes later: None until then."""
    found = RequestRecord.objects.filter(pk__in=request_ids, user_name=user.username)
    shared_until = spending.shared_until() or 0
    return {
        record.pk: {
            "engine_ttft_s": _sum(record.queue_s, record.prefill_s),
            "prompt_tokens": record.prompt_tokens,
            "completion_tokens": record.completion_tokens,
            "allocated_usd": _allocated_usd(record, shared_until),
            "parts": request_log.waterfall(record),
        }
        for record in found
    }


def _allocated_usd(record: RequestRecord, shared_until: int) -> str | None:
    """Dollars with every digit, once the whole time of the request is shared out."""
    if record.cost_units is None or record.finished_at > shared_until:
        return None
    return format(in_usd(record.cost_units), "f")


def title_of(text: str) -> str:
    """A conversation's name: its first message's first line, cut at a word."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "New chat")
    if len(line) <= TITLE_CHARACTERS:
        return line
    cut = line[:TITLE_CHARACTERS]
    return (cut.rsplit(" ", 1)[0] if " " in cut else cut).rstrip() + "…"


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second


def _new_conversation(*, user: User, request: ChatRequest) -> Conversation:
    conversation = Conversation.objects.create(
        user=user,
        title=title_of(request.messages[0].content),
        deployment_name=request.deployment,
        settings=request.settings(),
    )
    ChatMessage.objects.bulk_create(
        ChatMessage(conversation=conversation, role=turn.role, content=turn.content)
        for turn in request.messages
    )
    return conversation
