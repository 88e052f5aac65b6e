"""Tokens and roles: what a token may do, and what it may never do."""

from __future__ import annotations

from typing import Any

import pytest
from django.middleware.csrf import get_token
from django.test import Client, RequestFactory
from django.utils import timezone

from console import auth
from console.models import ApiToken, Event, User
from tests.unit.api.conftest import Caller, caller_for, error_of

pytestmark = pytest.mark.django_db


def test_me_says_who_and_what(as_operator: Caller, operator: User) -> None:
    body = as_operator.get("me").json()
    assert (body["username"], body["role"], body["via"]) == (operator.username, "operator", "token")
    assert body["token"]["name"] == "test"
    assert "digest" not in str(body)


def test_a_token_acts_with_its_own_role(admin: User) -> None:
    weak = caller_for(admin, "viewer")
    assert weak.get("me").json()["role"] == "viewer"
    assert error_of(weak.post("keys", {"name": "x"}), 403)["code"] == "forbidden"
    assert error_of(weak.post("me/tokens", {"name": "more", "role": "admin"}), 403)["field"] == "role"


def test_a_token_loses_what_its_owner_loses(operator: User) -> None:
    caller = caller_for(operator)
    assert caller.get("me").json()["role"] == "operator"
    User.objects.filter(pk=operator.pk).update(role="viewer")
    assert caller.get("me").json()["role"] == "viewer"
    User.objects.filter(pk=operator.pk).update(is_active=False)
    error_of(caller.get("me"), 401)


def test_a_revoked_token_is_unknown(operator: User) -> None:
    caller = caller_for(operator)
    ApiToken.objects.update(revoked_at=timezone.now())
    error_of(caller.get("me"), 401)


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic YTpi", "Token x", "Bearer " + "x" * 9999, "Bearer ü"]
)
def test_a_strange_authorization_header_is_401(header: str, operator: User) -> None:
    client = Client()
    client.force_login(operator)
    # The session must not stand in for a token that was meant to count.
    error_of(client.get("/api/v1/me", headers={"Authorization": header}), 401)


def test_the_browser_writes_with_its_csrf_token(operator: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)
    request = RequestFactory().get("/")
    token = get_token(request)
    from django.conf import settings

    client.cookies[settings.CSRF_COOKIE_NAME] = request.META["CSRF_COOKIE"]
    response = client.post(
        "/api/v1/keys", {"name": "ci"}, content_type="application/json", headers={"X-CSRFToken": token}
    )
    assert response.status_code == 201
    assert Event.objects.get(kind="key.created").source == "page"


def test_tokens_are_made_shown_once_listed_and_revoked(as_operator: Caller) -> None:
    made = as_operator.post("me/tokens", {"name": "ci", "role": "viewer"})
    assert made.status_code == 201
    body = made.json()
    assert body["token"].startswith("rdt-")
    assert Caller(body["token"]).get("me").json()["role"] == "viewer"
    assert ApiToken.objects.filter(digest__contains=body["token"][5:20]).count() == 0

    listed = as_operator.get("me/tokens").json()
    assert {row["name"] for row in listed["items"]} == {"ci", "test"}
    assert body["token"] not in str(listed)

    assert as_operator.delete(f"me/tokens/{body['id']}").status_code == 204
    error_of(Caller(body["token"]).get("me"), 401)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 81}, "name"),
        ({"name": "x", "role": "root"}, "role"),
        ({"name": 3}, "name"),
        ({"name": "x", "extra": 1}, "extra"),
    ],
)
def test_a_bad_token_request_names_its_field(body: dict[str, Any], field: str, as_operator: Caller) -> None:
    assert error_of(as_operator.post("me/tokens", body), 400)["field"] == field
    assert ApiToken.objects.count() == 1


def test_nobody_revokes_another_persons_token(as_operator: Caller, viewer: User) -> None:
    other, _ = auth.create_token(user=viewer, name="theirs", role="viewer")
    error_of(as_operator.delete(f"me/tokens/{other.pk}"), 404)
    other.refresh_from_db()
    assert other.revoked_at is None
    error_of(as_operator.delete("me/tokens/99999999999999999999"), 404)
