"""GET /metrics for Prometheus: who may read it, and in which format.

Not open: a token of this API of any role, or RAYDECK_METRICS_TOKEN, which can do nothing else. A browser's
session does not count, since a scraper has none.
"""

from __future__ import annotations

import hmac
import time

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe
from prometheus_client.exposition import choose_encoder

from console.auth import role_allows, token_of
from console.prometheus import registry

SHORTEST_TOKEN = 16


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Everything there is to scrape; see docs/operations.md."""
    if not _may_read(request.headers.get("Authorization", "")):
        return HttpResponse(
            "Send a token as “Authorization: Bearer …”.\n",
            status=401,
            content_type="text/plain; charset=utf-8",
            headers={"WWW-Authenticate": 'Bearer realm="raydeck"', "Cache-Control": "no-store"},
        )
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    body = encode(registry(time.time()))
    return HttpResponse(body, content_type=content_type, headers={"Cache-Control": "no-store"})


def _may_read(header: str) -> bool:
    scheme, _, plaintext = header.strip().partition(" ")
    plaintext = plaintext.strip()
    if scheme.lower() != "bearer" or not 0 < len(plaintext) <= 500:
        return False
    own = settings.METRICS_TOKEN
    if len(own) >= SHORTEST_TOKEN and hmac.compare_digest(own.encode(), plaintext.encode()):
        return True
    token = token_of(plaintext)
    return token is not None and all(role_allows(role, "viewer") for role in (token.role, token.user.role))
