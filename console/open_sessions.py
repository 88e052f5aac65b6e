"""Whether the session that opened a WebSocket still stands. Reads only: unlike Django's own check for HTTP it
never renews a session, since an open socket cannot be handed the new cookie.
"""

from __future__ import annotations

from importlib import import_module

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.utils.crypto import constant_time_compare

from console.models import User


def person_of(session_key: str | None, *, user_id: int) -> User | None:
    """The active person who opened a socket with this session, read anew. None after logging out, after the
    session's end, after a change of the password (sessions from before it end with it), or when disabled."""
    if not session_key:
        return None
    session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    if session.get(SESSION_KEY) != str(user_id):
        return None
    if session.get(BACKEND_SESSION_KEY) not in settings.AUTHENTICATION_BACKENDS:
        return None
    user = User.objects.filter(pk=user_id, is_active=True).first()
    if user is None:
        return None
    carried = str(session.get(HASH_SESSION_KEY, ""))
    valid = (user.get_session_auth_hash(), *user.get_session_auth_fallback_hash())
    return user if any(constant_time_compare(carried, one) for one in valid) else None
