"""One model under two names: what a caller asked for, and what the engine serves it as. Pure.

An alias is known to the gateway alone. The caller's bytes go through as they are; the engine sets the name
it serves in the parsed request, and the name that was asked for in the answer.
"""

import json
from collections.abc import Callable
from typing import Any

Rename = Callable[[bytes], bytes]


def renaming(request: Any, *, served: str | None) -> Rename:
    """Makes `request` one for `served`; returns what puts the name that was asked for into each answer.

    Without `served`, or when it is what was asked for, answers pass untouched.
    """
    asked = request.model
    if served is None or asked == served:
        return _untouched
    request.model = served
    # Compact JSON, as vLLM writes it; within a text the quotes would be escaped, so only the key matches.
    found, wanted = (b'"model":' + json.dumps(name, ensure_ascii=False).encode() for name in (served, asked))
    return lambda answer: answer.replace(found, wanted, 1)


def _untouched(answer: bytes) -> bytes:
    return answer
