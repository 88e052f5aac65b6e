"""What the gateway reads from a request: the key, the model's name, whether to stream. Pure.

The body is parsed once and passed on as the caller's own bytes; everything else in it is the engine's
business. Anything that cannot be read is a `BadRequest` with OpenAI's words for it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MAX_BODY_BYTES = 16 * 1024 * 1024
LONGEST_KEY = 512
# json.loads recurses; a body of brackets must not reach the interpreter's limit in somebody else's frame.
_NOT_JSON = "The body is not valid JSON."


class BadRequest(Exception):
    """The request cannot be read; `status` and the rest go out in OpenAI's form."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        status: int = 400,
        code: str | None = None,
        type_: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.status = status
        self.code = code
        self.type = type_
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Asked:
    """The two fields the gateway itself needs."""

    model: str
    stream: bool


def read_body(body: bytes) -> Asked:
    """Model and stream flag of a completion request. Raises BadRequest."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise BadRequest(_NOT_JSON) from None
    if not isinstance(fields, dict):
        raise BadRequest("The body must be a JSON object.")
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("Name a model: `model` must be a non-empty string.", param="model")
    stream = fields.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise BadRequest("`stream` must be true or false.", param="stream")
    if fields.get("prompt") in ("", []):
        raise BadRequest("`prompt` must not be empty.", param="prompt")
    return Asked(model=model, stream=bool(stream))


def headers_of(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """ASGI header pairs as text, names in lower case; of repeated headers the last."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in pairs}


def bearer_key(headers: Mapping[str, str]) -> str | None:
    """The API key of `Authorization: Bearer …`, or None where there is none that could be one."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key or len(key) > LONGEST_KEY:
        return None
    return key
