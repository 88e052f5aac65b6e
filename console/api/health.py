"""/healthz (this process answers) and /readyz (how every part is). No login, so words only: ok, warn or fail.
`python manage.py doctor` says what is wrong.

Orchestrators ask these every few seconds, so an answer is kept for a moment; whoever asks in between gets the
same one.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from console import probes

NEEDED = frozenset({"database", "redis", "worker"})
"""Without these the console cannot do its work. While Ray or the gateway are away, it shows that."""
PARTS = ("database", "redis", "ray", "serve", "gateway", "worker", "collector")
KEPT_FOR_S = 2.0


@dataclass
class _Latest:
    at: float = float("-inf")
    body: dict[str, Any] | None = None


_latest = _Latest()
_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


@require_safe
async def healthz(request: HttpRequest) -> HttpResponse:
    """200 while this process answers."""
    return _answer({"status": "alive"}, 200)


@require_safe
async def readyz(request: HttpRequest) -> HttpResponse:
    """Each part's state; 503 when one is down that the console needs."""
    loop = asyncio.get_running_loop()
    async with _locks.setdefault(loop, asyncio.Lock()):
        if _latest.body is None or time.monotonic() - _latest.at > KEPT_FOR_S:
            _latest.body = await sync_to_async(_ask, thread_sensitive=False)()
            _latest.at = time.monotonic()
    body = _latest.body
    return _answer(body, 200 if body["status"] == "ready" else 503)


def _ask() -> dict[str, Any]:
    parts = probes.probe_all(PARTS)
    down = [part.name for part in parts if part.state == "fail" and part.name in NEEDED]
    return {
        "status": "not ready" if down else "ready",
        "parts": {part.name: part.state for part in parts},
    }


def _answer(body: dict[str, Any], status: int) -> JsonResponse:
    return JsonResponse(body, status=status, headers={"Cache-Control": "no-store"})
