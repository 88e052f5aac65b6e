"""The smoke request: Ray's RUNNING is no proof of service, an answer is.

Goes through the gateway with the console's own key, so that it proves the whole path. Two tokens, no prompt
of anybody's.
"""

import logging

import httpx
from django.conf import settings

from console import secrets
from serving import keys

log = logging.getLogger(__name__)

SMOKE_TIMEOUT_S = 10.0


def smoke(deployment: str) -> str:
    """Empty text when the deployment answered a request, else why not, in a few words."""
    key = keys.internal_key(pepper=secrets.key_pepper(), purpose="smoke")
    body = {"model": deployment, "prompt": "Hello", "max_tokens": 2, "temperature": 0}
    try:
        answer = httpx.post(
            f"{settings.GATEWAY_URL}/v1/completions",
            json=body,
            headers={"Authorization": f"Bearer {key}"},
            timeout=SMOKE_TIMEOUT_S,
        )
        if answer.status_code == 200 and answer.json().get("choices"):
            return ""
        words = _message_of(answer)
    except (httpx.HTTPError, ValueError) as error:
        words = f"the gateway did not answer ({type(error).__name__})"
    log.info("smoke unanswered deployment=%s reason=%s", deployment, words)
    return words


def _message_of(answer: httpx.Response) -> str:
    try:
        error = answer.json()["error"]
        return f"{answer.status_code}: {error['message']}"[:200]
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} without a reason"
