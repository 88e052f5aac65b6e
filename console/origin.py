"""Whether a WebSocket is opened by a page of this very site: cookies ignore ports, this does not."""

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings


def same_origin(scope: dict[str, Any]) -> bool:
    """True when the Origin header names the host and port that was asked, or a trusted origin.

    A browser always sends the header with a WebSocket; without it the answer is no.
    """
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    origin = headers.get("origin", "")
    if not origin:
        return False
    if origin in settings.CSRF_TRUSTED_ORIGINS:
        return True
    return urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
