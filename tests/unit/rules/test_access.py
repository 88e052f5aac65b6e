"""Walks every address there is: nobody gets in without logging in, and every page asks for a role."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from console.models import Role, User

PUBLIC = {"login", "healthz", "readyz"}
OWN_CHECK = {"logout", "prometheus"}
"""The first answers a POST of anybody by ending the session that came with it; the second takes a bearer
token (tests/unit/api/test_prometheus.py)."""
VIEWER_POSTS = {"profile", "playground-history", "conversation-delete", "tokens", "token-revoke"}
"""Settings, conversations and tokens of one's own."""
READ_BY_MORE = {"keys"}
"""Pages that a role may read and a higher one may post to; they check the latter themselves."""
VALUES: dict[str, Any] = {
    "name": "nothing",
    "verb": "stop",
    "number": 1,
    "part_name": "timeline",
    "adapter": "nothing",
    "key_id": 1,
    "token_id": 1,
    "user_id": 1,
    "conversation_id": 1,
    "request_id": "abc",
}


def pages(resolver: URLResolver | None = None) -> Iterator[URLPattern]:
    """Every page's pattern; the REST API has a walk of its own (tests/unit/api)."""
    for pattern in (resolver or get_resolver()).url_patterns:
        if isinstance(pattern, URLResolver):
            if not str(pattern.pattern).startswith("api/"):
                yield from pages(pattern)
        else:
            yield pattern


def address(pattern: URLPattern) -> str:
    return reverse(str(pattern.name), kwargs={key: VALUES[key] for key in pattern.pattern.converters})


ALL = [pattern for pattern in pages()]
GUARDED = [pattern for pattern in ALL if pattern.name not in PUBLIC | OWN_CHECK]


def test_every_page_has_a_name_and_the_walk_is_not_empty() -> None:
    assert all(pattern.name for pattern in ALL)
    assert len(GUARDED) > 30


@pytest.mark.parametrize("pattern", GUARDED, ids=lambda p: str(p.name))
def test_every_page_declares_the_role_it_takes(pattern: URLPattern) -> None:
    assert getattr(pattern.callback, "required_role", None) in Role.values


@pytest.mark.parametrize("pattern", GUARDED, ids=lambda p: str(p.name))
@pytest.mark.parametrize("method", ["get", "post"])
def test_strangers_are_sent_to_the_login_page(
    pattern: URLPattern, method: str, client: Client, db: None
) -> None:
    answer = getattr(client, method)(address(pattern))
    assert answer.status_code == 302 and answer["Location"].startswith("/login/")


@pytest.mark.parametrize("pattern", GUARDED, ids=lambda p: str(p.name))
def test_a_lower_role_is_refused_with_the_role_it_takes(
    pattern: URLPattern, client: Client, viewer: User, operator: User
) -> None:
    needed = pattern.callback.required_role  # type: ignore[attr-defined]
    if needed == Role.VIEWER:
        return
    client.force_login(viewer if needed == Role.OPERATOR else operator)
    for method in (client.get, client.post):
        answer = method(address(pattern))
        assert answer.status_code == 403 and needed in answer.content.decode().lower()


@pytest.mark.parametrize("pattern", GUARDED, ids=lambda p: str(p.name))
def test_a_viewer_changes_nothing_but_what_is_his_own(
    pattern: URLPattern, client: Client, viewer: User
) -> None:
    """Says which pages a viewer may post to, whatever role the pages themselves name."""
    if pattern.name in VIEWER_POSTS:
        return
    client.force_login(viewer)
    assert client.post(address(pattern)).status_code in (403, 405)


@pytest.mark.parametrize("pattern", GUARDED, ids=lambda p: str(p.name))
def test_the_role_that_a_page_names_gets_in(pattern: URLPattern, client: Client, db: None) -> None:
    needed = pattern.callback.required_role  # type: ignore[attr-defined]
    client.force_login(User.objects.create_user("one", password="x", role=needed))
    assert client.get(address(pattern)).status_code not in (401, 403)
    if pattern.name not in READ_BY_MORE:
        assert client.post(address(pattern)).status_code not in (401, 403)


@pytest.mark.parametrize("name", ["login", "healthz"])
def test_public_pages_answer_strangers(name: str, client: Client, db: None) -> None:
    assert client.get(reverse(name)).status_code == 200


def test_posts_need_the_forms_own_token(admin: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin)
    answer = client.post(reverse("keys"), {"name": "ci"})
    assert answer.status_code == 403
