"""Creating once: a repeated request with the same Idempotency-Key gets the first one's answer.

The claim, the creation and its answer are one transaction: of two requests at the same moment the second
waits for the first one's commit and then finds its answer, and a refused creation leaves no trace, so that
the key can be used again. Answers are kept for a day; what is shown only once is never kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from console import secrets
from console.models import IdempotencyRecord, User
from serving import keys
from serving.errors import Conflict, InvalidSpec

KEPT_FOR = timedelta(hours=24)
LONGEST_KEY_CHARACTERS = 200

Create = Callable[[], tuple[int, dict[str, Any]]]


@dataclass(frozen=True)
class Answer:
    """Status and body of a creation; `replayed` when it is that of an earlier request."""

    status: int
    body: dict[str, Any]
    replayed: bool = False


def create_once(
    *,
    user: User,
    key: str | None,
    method_and_path: str,
    request: dict[str, Any],
    create: Create,
    shown_once: tuple[str, ...] = (),
) -> Answer:
    """Run `create` unless this user has done so with this key and request; without a key, just run it.

    `shown_once` names fields of the body that are not kept: a repeat has null in their place. Raises Conflict
    when the key was used with another request, InvalidSpec for a key that cannot be one, and whatever
    `create` raises.
    """
    if key is None:
        return Answer(*create())
    _check_key(key)
    digest = _digest(request)
    try:
        with transaction.atomic():
            _forget_old(user)
            earlier = _find(user, key, method_and_path)
            if earlier is None:
                return _created(user, key, method_and_path, digest, create, shown_once)
    except IntegrityError:
        # Another request with this key was committed between our look and our claim.
        earlier = _find(user, key, method_and_path)
        if earlier is None:
            raise
    if earlier.request_digest != digest:
        raise Conflict(
            "This Idempotency-Key was used for another request; use a new key for a new request.",
            current={"created_at": earlier.created_at.isoformat()},
            field="Idempotency-Key",
        )
    return Answer(earlier.response_status, earlier.response_body, replayed=True)


def _created(
    user: User, key: str, method_and_path: str, digest: str, create: Create, shown_once: tuple[str, ...]
) -> Answer:
    # The row comes first: its unique constraint makes whoever comes second wait here.
    record = IdempotencyRecord.objects.create(
        user=user,
        key=key,
        method_and_path=method_and_path,
        request_digest=digest,
        response_status=0,
        response_body={},
    )
    status, body = create()
    kept = {name: None if name in shown_once else value for name, value in body.items()}
    IdempotencyRecord.objects.filter(pk=record.pk).update(response_status=status, response_body=kept)
    return Answer(status, body)


def _find(user: User, key: str, method_and_path: str) -> IdempotencyRecord | None:
    return IdempotencyRecord.objects.filter(user=user, key=key, method_and_path=method_and_path).first()


def _forget_old(user: User) -> None:
    IdempotencyRecord.objects.filter(user=user, created_at__lt=timezone.now() - KEPT_FOR).delete()


def _check_key(key: str) -> None:
    if not 1 <= len(key) <= LONGEST_KEY_CHARACTERS or not key.isascii() or not key.isprintable():
        raise InvalidSpec(
            f"An Idempotency-Key is 1 to {LONGEST_KEY_CHARACTERS} printable ASCII characters.",
            field="Idempotency-Key",
        )


def _digest(request: dict[str, Any]) -> str:
    """Keyed, since a request may hold a hub token."""
    text = json.dumps(request, sort_keys=True, ensure_ascii=True, default=str)
    return keys.digest_of(key=text, pepper=secrets.key_pepper())
