"""Slows password guessing: after ten failures of one name from one address, ten minutes of refusal.

Counts live in the process's cache, which is enough for the one web process there is: they need not outlive
it, and a login must work while Redis is down. Names are kept as digests only, since people type passwords
into the wrong field.
"""

from __future__ import annotations

import hashlib
import hmac

from django.conf import settings
from django.core.cache import cache

FAILURES = 10
WINDOW_S = 600


def is_refused(*, username: str, address: str) -> bool:
    """Whether this name from this address has used up its failures."""
    return int(cache.get(_key(username, address), 0)) >= FAILURES


def note_failure(*, username: str, address: str) -> None:
    """Count a failure; the window begins with the first."""
    key = _key(username, address)
    cache.add(key, 0, timeout=WINDOW_S)
    try:
        cache.incr(key)
    except ValueError:
        cache.set(key, 1, timeout=WINDOW_S)  # the window ended between the two calls


def forget(*, username: str, address: str) -> None:
    """A success ends the count."""
    cache.delete(_key(username, address))


def _key(username: str, address: str) -> str:
    text = f"{username.strip().lower()}\0{address}"
    return "login:" + hmac.new(settings.SECRET_KEY.encode(), text.encode(), hashlib.sha256).hexdigest()
