"""Sessions of logged-in people for tests of the sockets, made by Django's own login."""

from __future__ import annotations

from django.contrib.auth import login
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpRequest

from console.models import User


def session_of(user: User) -> SessionStore:
    """A stored session in which the person has logged in."""
    request = HttpRequest()
    request.session = SessionStore()
    login(request, user)
    request.session.save()
    return request.session
