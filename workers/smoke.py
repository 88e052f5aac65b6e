"""The smoke request: Ray's RUNNING is no proof of service, an answer is.

Goes through the gateway with the console's own key, so that it proves the whole path. Two tokens, an
embedding or a score, no prompt of anybody's.
"""

import logging
from typing import Any

import httpx
from django.conf import settings

from console import secrets
from serving import keys
from serving.gateway_paths import TASK_NOT_SUPPORTED
from serving.tasks import PATHS, Task

log = logging.getLogger(__name__)

SMOKE_TIMEOUT_S = 10.0
BODIES: dict[Task, tuple[dict[str, Any], str]] = {
    "generate": ({"prompt": "Hello", "max_tokens": 2, "temperature": 0}, "choices"),
    "embed": ({"input": "Hello"}, "data"),
    "score": ({"text_1": "Hello", "text_2": "Hello"}, "data"),
}
"""What is asked of each task, and the part of the answer that must hold something."""


def smoke(deployment: str, task: Task = "generate") -> str:
    """Empty text when the deployment answered a request of its task, else why not, in a few words.

    `task` is a forecast; where the engine says that it has another, that one is asked for.
    """
    unanswered = ""
    for tried in (task, *(other for other in BODIES if other != task)):
        unanswered, is_other_task = _ask(deployment, tried)
        if not is_other_task:
            break
    if unanswered:
        log.info("smoke unanswered deployment=%s reason=%s", deployment, unanswered)
    return unanswered


def _ask(deployment: str, task: Task) -> tuple[str, bool]:
    """Why it did not answer (empty: it did), and whether because the model has another task."""
    key = keys.internal_key(pepper=secrets.key_pepper(), purpose="smoke")
    fields, shown = BODIES[task]
    try:
        answer = httpx.post(
            f"{settings.GATEWAY_URL}{PATHS[task]}",
            json={"model": deployment, **fields},
            headers={"Authorization": f"Bearer {key}"},
            timeout=SMOKE_TIMEOUT_S,
        )
        if answer.status_code == 200 and answer.json().get(shown):
            return "", False
    except (httpx.HTTPError, ValueError) as error:
        return f"the gateway did not answer ({type(error).__name__})", False
    return _message_of(answer), TASK_NOT_SUPPORTED in answer.text


def _message_of(answer: httpx.Response) -> str:
    try:
        error = answer.json()["error"]
        return f"{answer.status_code}: {error['message']}"[:200]
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} without a reason"
