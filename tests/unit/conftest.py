"""Fast tests: no broker and no Redis; messages between pages stay in memory, wakes are counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings

from console.models import Role, User


@pytest.fixture(autouse=True)
def _channels_in_memory() -> Iterator[None]:
    before = settings.CHANNEL_LAYERS
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    yield
    settings.CHANNEL_LAYERS = before


@pytest.fixture(autouse=True)
def _quick_passwords() -> Iterator[None]:
    """The real hasher takes half a second for each of the people that a test makes."""
    with override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"]):
        yield


@pytest.fixture
def wakes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tasks that were sent, in order; nothing reaches a broker."""
    sent: list[str] = []

    def note(name: str, *args: Any, **kwargs: Any) -> bool:
        sent.append(name)
        return True

    monkeypatch.setattr("console.wakeup.send_task", note)
    return sent


@pytest.fixture(autouse=True)
def _no_broker(wakes: list[str]) -> None:
    """Without a broker every write would wait for one."""


def make_user(role: str) -> User:
    """A person with this role; the password is `long enough`."""
    return User.objects.create_user(f"{role}-person", password="long enough", role=role)


@pytest.fixture
def admin(db: None) -> User:
    return make_user(Role.ADMIN)


@pytest.fixture
def operator(db: None) -> User:
    return make_user(Role.OPERATOR)


@pytest.fixture
def viewer(db: None) -> User:
    return make_user(Role.VIEWER)
