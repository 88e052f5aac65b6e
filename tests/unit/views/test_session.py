"""Logging in and out, the limit on guessing, and one's own password."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.core.cache import cache
from django.test import Client

from console.models import Event, User
from tests.unit.conftest import make_user

pytestmark = pytest.mark.django_db
PASSWORD = "long enough"


@pytest.fixture
def operator(db: None) -> User:
    return make_user("operator")


@pytest.fixture
def viewer(db: None) -> User:
    return make_user("viewer")


@pytest.fixture(autouse=True)
def _no_earlier_failures() -> Iterator[None]:
    cache.clear()
    yield
    cache.clear()


def log_in(client: Client, password: str = PASSWORD, **more: str) -> int:
    return client.post("/login/", {"username": "viewer-person", "password": password, **more}).status_code


def test_logging_in_goes_on_to_where_one_was_going(client: Client, viewer: User) -> None:
    page = client.get("/login/?next=/models/%3Fq%3Dllama")
    assert 'value="/models/?q=llama"' in page.content.decode()
    given = {"username": "viewer-person", "password": PASSWORD, "next": "/models/?q=llama"}
    assert client.post("/login/", given).headers["Location"] == "/models/?q=llama"


@pytest.mark.parametrize(
    "elsewhere", ["https://evil.example/", "//evil.example/", "javascript:alert(1)", "/\\evil.example", ""]
)
def test_one_is_never_sent_to_another_site(client: Client, viewer: User, elsewhere: str) -> None:
    given = {"username": "viewer-person", "password": PASSWORD, "next": elsewhere}
    assert client.post("/login/", given).headers["Location"] == "/"


def test_a_wrong_password_and_an_unknown_name_get_the_same_words(client: Client, viewer: User) -> None:
    wrong = client.post("/login/", {"username": "viewer-person", "password": "wrong"})
    unknown = client.post("/login/", {"username": "nobody", "password": "wrong"})
    assert wrong.status_code == unknown.status_code == 400
    words = "Name and password do not match"
    assert words in wrong.content.decode() and words in unknown.content.decode()


def test_after_ten_failures_even_the_right_password_has_to_wait(client: Client, viewer: User) -> None:
    for _ in range(10):
        assert log_in(client, "wrong") == 400
    response = client.post("/login/", {"username": "viewer-person", "password": PASSWORD})
    assert response.status_code == 429 and "Wait ten minutes" in response.content.decode()
    assert response.headers["Retry-After"] == "600"


def test_others_are_not_held_up_by_someone_elses_failures(
    client: Client, viewer: User, operator: User
) -> None:
    for _ in range(10):
        log_in(client, "wrong")
    other_name = client.post("/login/", {"username": "operator-person", "password": PASSWORD})
    assert other_name.status_code == 302
    other_place = Client(REMOTE_ADDR="10.0.0.9")
    assert log_in(other_place) == 302


def test_a_success_ends_the_count(client: Client, viewer: User) -> None:
    for _ in range(9):
        log_in(client, "wrong")
    assert log_in(client) == 302
    client.post("/logout/")
    for _ in range(9):
        assert log_in(client, "wrong") == 400
    assert log_in(client) == 302


def test_an_account_that_is_off_cannot_log_in(client: Client, viewer: User) -> None:
    User.objects.update(is_active=False)
    assert log_in(client) == 400


def test_logging_out_takes_a_post_and_ends_the_session(client: Client, viewer: User) -> None:
    client.force_login(viewer)
    assert client.get("/logout/").status_code == 405
    assert client.post("/logout/").headers["Location"] == "/login/"
    assert client.get("/models/").status_code == 302


def test_one_who_is_logged_in_is_not_asked_again(client: Client, viewer: User) -> None:
    client.force_login(viewer)
    assert client.get("/login/").status_code == 302


def test_changing_the_password_keeps_this_session_and_ends_the_others(client: Client, viewer: User) -> None:
    other = Client()
    for one in (client, other):
        one.force_login(viewer)
    given = {"current": PASSWORD, "new": "blue-lantern-42", "again": "blue-lantern-42"}
    assert client.post("/settings/profile/", given).status_code == 302
    assert client.get("/settings/profile/").status_code == 200
    assert other.get("/settings/profile/").status_code == 302
    viewer.refresh_from_db()
    assert viewer.check_password("blue-lantern-42")
    assert not Event.objects.filter(message__contains="lantern").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"current": "wrong"}, "not your present password"),
        ({"again": "different-one-42"}, "differ"),
        ({"new": "short", "again": "short"}, "too short"),
        ({"new": PASSWORD, "again": PASSWORD}, "already have"),
        ({"new": "", "again": ""}, "required"),
    ],
)
def test_a_password_that_cannot_be_changed_says_why(
    client: Client, viewer: User, change: dict[str, str], words: str
) -> None:
    client.force_login(viewer)
    given = {"current": PASSWORD, "new": "blue-lantern-42", "again": "blue-lantern-42", **change}
    response = client.post("/settings/profile/", given)
    assert response.status_code == 400 and words in response.content.decode()
    viewer.refresh_from_db()
    assert viewer.check_password(PASSWORD)
