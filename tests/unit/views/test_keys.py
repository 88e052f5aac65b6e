"""Keys, tokens and people: shown once, revoked by name, never above one's own role."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from django.test import Client

from console import auth, people, secrets
from console.actions import Actor, create_key
from console.models import ApiKey, ApiToken, ClusterStatus, Event, RequestRecord, User
from serving import keys
from serving.errors import InvalidSpec
from tests.unit.conftest import make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin(db: None) -> User:
    return make_user("admin")


@pytest.fixture
def operator(db: None) -> User:
    return make_user("operator")


@pytest.fixture
def viewer(db: None) -> User:
    return make_user("viewer")


def text_of(response: Any) -> str:
    return str(response.content.decode()).replace("\u00a0", " ")


@pytest.fixture
def as_admin(client: Client, admin: User) -> Client:
    client.force_login(admin)
    return client


@pytest.fixture
def as_operator(client: Client, operator: User) -> Client:
    client.force_login(operator)
    return client


@pytest.fixture
def as_viewer(client: Client, viewer: User) -> Client:
    client.force_login(viewer)
    return client


# --- keys --------------------------------------------------------------------------------------------------


def test_a_new_key_is_shown_once_with_an_example_and_only_its_hash_is_stored(as_operator: Client) -> None:
    response = as_operator.post("/keys/", {"name": "support-bot"})
    plaintext = re.search(r"rd-[A-Za-z0-9_-]{43}", text_of(response))
    assert response.status_code == 201 and plaintext is not None
    assert f"Bearer {plaintext[0]}" in text_of(response) and "no-store" in response.headers["Cache-Control"]
    key = ApiKey.objects.get()
    assert key.digest == keys.digest_of(key=plaintext[0], pepper=secrets.key_pepper())
    listed = text_of(as_operator.get("/keys/"))
    assert plaintext[0] not in listed and key.prefix in listed
    assert not Event.objects.filter(message__contains=plaintext[0]).exists()


def test_the_list_says_who_when_and_how_often(as_operator: Client, operator: User) -> None:
    key, _ = create_key(actor=Actor(operator), name="ci")
    for number in range(3):
        RequestRecord.objects.create(
            id=str(number), key=key, deployment_name="demo", path="/", started_at=0, status=200, outcome="ok"
        )
    text = text_of(as_operator.get("/keys/"))
    assert "by operator-person" in text and "never" in text
    assert re.search(r'data-label="Requests"><a[^>]*>3<', text)


def test_the_list_takes_the_same_queries_for_many_keys(
    as_operator: Client, operator: User, django_assert_max_num_queries: Any
) -> None:
    for number in range(30):
        create_key(actor=Actor(operator), name=f"key-{number}")
    with django_assert_max_num_queries(9):
        as_operator.get("/keys/")


def test_the_consoles_own_keys_are_not_listed(as_operator: Client) -> None:
    ApiKey.objects.create(name="playground", digest="x", prefix="internal", kind="internal")
    assert "playground…" not in text_of(as_operator.get("/keys/"))
    assert as_operator.get(f"/keys/{ApiKey.objects.get().pk}/revoke/").status_code == 404


def test_sending_the_page_twice_makes_no_second_key(as_operator: Client) -> None:
    as_operator.post("/keys/", {"name": "ci"})
    response = as_operator.post("/keys/", {"name": "ci"})
    assert response.status_code == 400 and "exists already" in text_of(response)
    assert ApiKey.objects.count() == 1


def test_a_key_needs_a_name(as_operator: Client) -> None:
    assert as_operator.post("/keys/", {"name": " "}).status_code == 400
    assert as_operator.post("/keys/", {"name": "x" * 81}).status_code == 400
    assert not ApiKey.objects.exists()


def test_a_key_is_revoked_once_its_name_is_typed(as_operator: Client, operator: User) -> None:
    key, _ = create_key(actor=Actor(operator), name="ci")
    address = f"/keys/{key.pk}/revoke/"
    assert "Keep it" in text_of(as_operator.get(address))
    assert as_operator.post(address, {"typed_name": "co"}).status_code == 400
    key.refresh_from_db()
    assert key.revoked_at is None
    assert as_operator.post(address, {"typed_name": "ci"}).status_code == 302
    key.refresh_from_db()
    assert key.revoked_at is not None and "1 revoked" in text_of(as_operator.get("/keys/"))
    assert as_operator.post(address, {"typed_name": "ci"}).status_code == 404


def test_a_viewer_sees_keys_and_may_neither_make_nor_revoke_one(as_viewer: Client, operator: User) -> None:
    key, _ = create_key(actor=Actor(operator), name="ci")
    assert key.prefix in text_of(as_viewer.get("/keys/"))
    assert as_viewer.post("/keys/", {"name": "mine"}).status_code == 403
    assert as_viewer.post(f"/keys/{key.pk}/revoke/", {"typed_name": "ci"}).status_code == 403
    assert ApiKey.objects.filter(revoked_at=None).count() == 1


@pytest.mark.parametrize("address", ["/keys/", "/settings/tokens/", "/settings/users/", "/settings/profile/"])
def test_nobody_sees_these_pages_without_logging_in(client: Client, address: str) -> None:
    assert client.get(address).headers["Location"] == f"/login/?next={address}"


# --- limits ------------------------------------------------------------------------------------------------

LIMITS = {"requests_per_minute": "60", "budget_usd_per_day": "1.5", "expires_at": "2030-01-02T03:04"}


def test_a_key_is_made_with_limits(as_operator: Client) -> None:
    assert as_operator.post("/keys/", {"name": "ci", **LIMITS}).status_code == 201
    assert ApiKey.objects.get().limits == {
        "requests_per_minute": 60,
        "budget_usd_per_day": "1.5",
        "expires_at": "2030-01-02T03:04:00Z",
    }
    text = text_of(as_operator.get("/keys/"))
    assert "of 60" in text and "requests/min" in text and "of $1.50" in text and "until" in text


def test_a_limit_that_is_none_is_named_and_nothing_typed_is_lost(as_operator: Client) -> None:
    response = as_operator.post("/keys/", {"name": "ci", **LIMITS, "tokens_per_minute": "many"})
    text = text_of(response)
    assert response.status_code == 400 and "Enter a whole number" in text and not ApiKey.objects.exists()
    assert 'value="60"' in text and 'value="2030-01-02T03:04"' in text
    over = {"name": "ci", "budget_usd_per_day": "5", "budget_usd_per_month": "1"}
    assert "it would never act" in text_of(as_operator.post("/keys/", over))


def test_a_keys_limits_are_edited_and_the_second_person_is_told(as_operator: Client, operator: User) -> None:
    key, _ = create_key(actor=Actor(operator), name="ci", limits={"requests_per_minute": 60})
    address = f"/keys/{key.pk}/edit/"
    text = text_of(as_operator.get(address))
    assert 'value="60"' in text and "Used now" in text
    first = {"name": "ci", "requests_in_flight": "4", "expected_version": "1"}
    assert as_operator.post(address, first).status_code == 302
    key.refresh_from_db()
    assert key.limits == {"requests_in_flight": 4}
    late = as_operator.post(address, {"name": "ci", "requests_in_flight": "9", "expected_version": "1"})
    shown = text_of(late)
    assert late.status_code == 409 and "Their version beside yours" in shown
    assert 'name="expected_version" value="2"' in shown and 'value="9"' in shown
    assert Event.objects.filter(kind="key.edited").count() == 1


def test_a_viewer_edits_no_key(as_viewer: Client, operator: User) -> None:
    key, _ = create_key(actor=Actor(operator), name="ci")
    assert as_viewer.post(f"/keys/{key.pk}/edit/", {"name": "x", "expected_version": "1"}).status_code == 403


def test_keys_with_limits_take_the_same_queries(
    as_operator: Client, operator: User, django_assert_max_num_queries: Any
) -> None:
    for number in range(30):
        create_key(actor=Actor(operator), name=f"key-{number}", limits={"requests_per_minute": 5})
    with django_assert_max_num_queries(11):
        as_operator.get("/keys/")


def test_the_page_says_when_limits_are_not_shared(as_operator: Client) -> None:
    said = {"redis": "away", "at": time.time()}
    ClusterStatus.objects.create(pk=1, gateway_limits=said)
    assert "each of its replicas keeps the limits by itself" in text_of(as_operator.get("/keys/"))


# --- tokens ------------------------------------------------------------------------------------------------


def test_a_new_token_is_shown_once_and_works(as_operator: Client, operator: User) -> None:
    response = as_operator.post("/settings/tokens/", {"name": "deploy script", "role": "viewer"})
    plaintext = re.search(r"rdt-[A-Za-z0-9_-]{43}", text_of(response))
    assert response.status_code == 201 and plaintext is not None
    token = auth.token_of(plaintext[0])
    assert token is not None and (token.user, token.role) == (operator, "viewer")
    assert plaintext[0] not in text_of(as_operator.get("/settings/tokens/"))


def test_nobody_makes_a_token_above_their_own_role(as_operator: Client, operator: User) -> None:
    response = as_operator.post("/settings/tokens/", {"name": "more", "role": "admin"})
    assert response.status_code == 400 and not ApiToken.objects.exists()
    with pytest.raises(InvalidSpec, match="at most"):
        people.create_token(actor=Actor(operator), name="more", role="admin")


def test_a_token_needs_a_name_and_a_role(as_operator: Client) -> None:
    assert as_operator.post("/settings/tokens/", {"name": "", "role": "viewer"}).status_code == 400
    assert as_operator.post("/settings/tokens/", {"name": "x", "role": "king"}).status_code == 400


def test_one_sees_and_revokes_ones_own_tokens_and_an_administrator_all(
    client: Client, admin: User, operator: User, viewer: User
) -> None:
    theirs, _ = people.create_token(actor=Actor(operator), name="operators-own", role="operator")
    address = f"/settings/tokens/{theirs.pk}/revoke/"
    client.force_login(viewer)
    assert "operators-own" not in text_of(client.get("/settings/tokens/"))
    assert client.post(address, {"typed_name": "operators-own"}).status_code == 404
    client.force_login(admin)
    assert "operators-own" in text_of(client.get("/settings/tokens/"))
    assert client.post(address, {"typed_name": "wrong"}).status_code == 400
    assert client.post(address, {"typed_name": "operators-own"}).status_code == 302
    theirs.refresh_from_db()
    assert theirs.revoked_at is not None


# --- people ------------------------------------------------------------------------------------------------


def test_an_administrator_adds_a_person_who_can_log_in(as_admin: Client) -> None:
    given = {"username": "nora", "role": "operator", "password": "blue-lantern-42"}
    assert as_admin.post("/settings/users/", given).status_code == 302
    nora = User.objects.get(username="nora")
    assert nora.role == "operator" and nora.check_password("blue-lantern-42") and not nora.is_superuser
    assert not Event.objects.filter(message__contains="blue-lantern").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"password": "short"}, "too short"),
        ({"password": "password1234"}, "too common"),
        ({"username": "two words"}, "valid username"),
        ({"username": "admin-person"}, "already is somebody"),
        ({"role": "king"}, "Select a valid choice"),
    ],
)
def test_a_person_that_cannot_be_added_is_refused_with_the_reason(
    as_admin: Client, change: dict[str, str], words: str
) -> None:
    given = {"username": "nora", "role": "viewer", "password": "blue-lantern-42", **change}
    response = as_admin.post("/settings/users/", given)
    assert response.status_code == 400 and words in text_of(response) and User.objects.count() == 1


def test_only_administrators_see_and_change_people(as_operator: Client, operator: User, viewer: User) -> None:
    assert as_operator.get("/settings/users/").status_code == 403
    assert as_operator.post(f"/settings/users/{operator.pk}/", {"role": "admin"}).status_code == 403
    operator.refresh_from_db()
    assert operator.role == "operator"


def test_a_lower_role_ends_the_tokens_above_it(as_admin: Client, operator: User) -> None:
    strong, _ = people.create_token(actor=Actor(operator), name="strong", role="operator")
    weak, _ = people.create_token(actor=Actor(operator), name="weak", role="viewer")
    assert as_admin.post(f"/settings/users/{operator.pk}/", {"role": "viewer"}).status_code == 302
    operator.refresh_from_db()
    strong.refresh_from_db()
    weak.refresh_from_db()
    assert operator.role == "viewer" and strong.revoked_at is not None and weak.revoked_at is None


def test_a_person_switched_off_is_out_at_once_and_comes_back(as_admin: Client, viewer: User) -> None:
    theirs = Client()
    theirs.force_login(viewer)
    assert as_admin.post(f"/settings/users/{viewer.pk}/", {"active": "0"}).status_code == 302
    assert theirs.get("/models/").status_code == 302
    as_admin.post(f"/settings/users/{viewer.pk}/", {"active": "1"})
    viewer.refresh_from_db()
    assert viewer.is_active


def test_the_last_administrator_can_neither_leave_nor_step_down(as_admin: Client, admin: User) -> None:
    address = f"/settings/users/{admin.pk}/"
    refused = as_admin.post(address, {"role": "viewer"})
    assert refused.status_code == 400 and "last administrator" in text_of(refused)
    assert as_admin.post(address, {"active": "0"}).status_code == 400
    admin.refresh_from_db()
    assert admin.is_active and admin.role == "admin"


def test_nonsense_changes_nothing(as_admin: Client, viewer: User) -> None:
    assert as_admin.post(f"/settings/users/{viewer.pk}/", {}).status_code == 400
    assert as_admin.post(f"/settings/users/{viewer.pk}/", {"role": "king"}).status_code == 400
    assert as_admin.post("/settings/users/999999/", {"role": "viewer"}).status_code == 404
