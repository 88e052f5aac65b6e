"""/keys (for the gateway) and /me with its tokens (for this API)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from django.http import HttpRequest, HttpResponse
from ninja import Router
from ninja.responses import Status

from console import actions, limit_use, people
from console.api.errors import ApiError, not_found
from console.api.inputs import KeyChange, KeyInput, KeyLimitsInput, TokenInput
from console.api.outputs import KeyDetail, KeyOut, MeOut, NewKeyOut, NewTokenOut, Page, TokenOut
from console.api.routing import (
    IdempotencyKey,
    IfMatch,
    Limit,
    Offset,
    expected_version,
    method_and_path,
    operation,
    set_version,
)
from console.api.security import Caller, caller_of
from console.auth import role_allows
from console.idempotency import create_once
from console.models import ApiKey, ApiToken, KeyKind
from serving.errors import RaydeckError

router = Router(tags=["access"])
LARGEST_ID = 2**31 - 1


@operation(router, "GET", "/keys", role="viewer", answer=Page[KeyOut])
def list_keys(request: HttpRequest, limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
    """The gateway's keys, newest first, revoked ones too. Secrets are not stored."""
    rows = ApiKey.objects.filter(kind=KeyKind.USER).order_by("-created_at", "-pk")
    return {
        "items": list(rows[offset : offset + limit]),
        "total": rows.count(),
        "limit": limit,
        "offset": offset,
    }


@operation(router, "POST", "/keys", role="operator", answer=NewKeyOut, status=201)
def create_key(
    request: HttpRequest, response: HttpResponse, body: KeyInput, idempotency_key: IdempotencyKey = None
) -> Status[dict[str, Any]]:
    """Create a gateway key. Its secret is in this answer only."""
    caller = caller_of(request)

    def create() -> tuple[int, dict[str, Any]]:
        limits = body.limits.given() if body.limits is not None else {}
        with _limits_named():
            key, plaintext = actions.create_key(actor=caller.actor, name=body.name, limits=limits)
        shown = KeyOut.model_validate(key, from_attributes=True).model_dump(mode="json")
        return 201, {**shown, "key": plaintext}

    answer = create_once(
        user=caller.user,
        key=idempotency_key,
        method_and_path=method_and_path(request),
        request=body.model_dump(mode="json"),
        create=create,
        shown_once=("key",),
    )
    response["Idempotent-Replayed"] = str(answer.replayed).lower()
    return Status(answer.status, answer.body)


@operation(router, "GET", "/keys/{key_id}", role="viewer", answer=KeyDetail)
def get_key(request: HttpRequest, response: HttpResponse, key_id: int) -> dict[str, Any]:
    """One gateway key with its limits and how much of them is used now."""
    return _key_answer(response, _key(key_id))


@operation(router, "PATCH", "/keys/{key_id}", role="operator", answer=KeyDetail)
def edit_key(
    request: HttpRequest, response: HttpResponse, key_id: int, body: KeyChange, if_match: IfMatch = None
) -> dict[str, Any]:
    """Change a key's name or limits; in force within about a second.

    Of `limits` only what is given changes, null takes a limit away. When somebody else has changed the key
    since `expected_version`, the answer is 409 with what stands now.
    """
    version = expected_version(header=if_match, body=body.expected_version)
    with _limits_named():
        key = actions.edit_key(
            actor=caller_of(request).actor,
            key_id=_key(key_id).pk,
            expected_version=version,
            name=body.name,
            limits=body.limits.given() if body.limits is not None else None,
        )
    return _key_answer(response, key)


@operation(router, "DELETE", "/keys/{key_id}", role="operator", answer=KeyOut)
def revoke_key(request: HttpRequest, key_id: int) -> ApiKey:
    """Revoke a gateway key; callers that use it get 401 within about a second."""
    if not 0 < key_id <= LARGEST_ID:
        raise not_found("There is no such key.")
    return actions.revoke_key(actor=caller_of(request).actor, key_id=key_id)


@operation(router, "GET", "/me", role="viewer", answer=MeOut)
def get_me(request: HttpRequest) -> dict[str, Any]:
    """Who you are to this API and what you may do."""
    caller = caller_of(request)
    return {
        "username": caller.user.username,
        "role": caller.role,
        "account_role": caller.user.role,
        "via": "session" if caller.token is None else "token",
        "token": caller.token,
    }


@operation(router, "GET", "/me/tokens", role="viewer", answer=Page[TokenOut])
def list_tokens(request: HttpRequest, limit: Limit = 50, offset: Offset = 0) -> dict[str, Any]:
    """Your live tokens, newest first. Secrets are not stored."""
    rows = ApiToken.objects.filter(user=caller_of(request).user, revoked_at=None).order_by(
        "-created_at", "-pk"
    )
    return {
        "items": list(rows[offset : offset + limit]),
        "total": rows.count(),
        "limit": limit,
        "offset": offset,
    }


@operation(router, "POST", "/me/tokens", role="viewer", answer=NewTokenOut, status=201)
def create_token(
    request: HttpRequest, response: HttpResponse, body: TokenInput, idempotency_key: IdempotencyKey = None
) -> Status[dict[str, Any]]:
    """Create a token for this API. Its secret is in this answer only; its role is at most yours."""
    caller = caller_of(request)
    # A token acts with its own role: it must not make another one that may do more.
    if not role_allows(caller.role, body.role):
        raise ApiError(
            403, "forbidden", f"You are {caller.role} here: a token can be that at most.", field="role"
        )

    def create() -> tuple[int, dict[str, Any]]:
        token, plaintext = people.create_token(actor=caller.actor, name=body.name, role=body.role)
        shown = TokenOut.model_validate(token, from_attributes=True).model_dump(mode="json")
        return 201, {**shown, "token": plaintext}

    answer = create_once(
        user=caller.user,
        key=idempotency_key,
        method_and_path=method_and_path(request),
        request=body.model_dump(),
        create=create,
        shown_once=("token",),
    )
    response["Idempotent-Replayed"] = str(answer.replayed).lower()
    return Status(answer.status, answer.body)


@operation(router, "DELETE", "/me/tokens/{token_id}", role="viewer", answer=None, status=204)
def revoke_token(request: HttpRequest, token_id: int) -> Status[None]:
    """Revoke one of your tokens; it stops working at once."""
    caller = caller_of(request)
    token = _own_token(caller, token_id)
    people.revoke_token(actor=caller.actor, token_id=token.pk)
    return Status(204, None)


def _key(key_id: int) -> ApiKey:
    rows = ApiKey.objects.filter(pk=key_id, kind=KeyKind.USER) if 0 < key_id <= LARGEST_ID else None
    key = rows.first() if rows is not None else None
    if key is None:
        raise not_found("There is no such key.")
    return key


def _key_answer(response: HttpResponse, key: ApiKey) -> dict[str, Any]:
    set_version(response, key.version)
    shown = KeyOut.model_validate(key, from_attributes=True).model_dump()
    return {**shown, "use": limit_use.of_key(key)}


@contextlib.contextmanager
def _limits_named() -> Iterator[None]:
    """Puts `limits.` before the field of a refusal, where the body has it under that name."""
    try:
        yield
    except RaydeckError as error:
        if error.field is not None and error.field.split(".", 1)[0] in KeyLimitsInput.model_fields:
            error.field = f"limits.{error.field}"
        raise


def _own_token(caller: Caller, token_id: int) -> ApiToken:
    rows = ApiToken.objects.filter(user=caller.user, pk=token_id) if 0 < token_id <= LARGEST_ID else None
    token = rows.first() if rows is not None else None
    if token is None:
        raise not_found("You have no such token.")
    if not role_allows(caller.role, token.role):
        raise ApiError(403, "forbidden", f"This takes the role {token.role}; yours is {caller.role}.")
    return token
