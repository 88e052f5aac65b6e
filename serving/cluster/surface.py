"""Embeddings, scores and tokens: what an engine answers beside chat and completions.

Drives vLLM's own serving objects, which Ray's engine has made; pydantic reads a request once, here. Ray's own
methods are passed by: they look for the tokenizer under a name it no longer has in vLLM 0.29, and parse every
embedding a second time. vLLM is imported when the replica makes this, never at module level.
"""

import json
from collections.abc import Callable, Collection
from typing import Any

from serving.cluster.naming import renaming
from serving.gateway_paths import (
    CHAT,
    COMPLETIONS,
    DETOKENIZE,
    EMBEDDINGS,
    SCORE,
    TOKENIZE,
)

# What a request must have at least, so that the refusal names one field and not those of every variant.
NEEDED = {
    EMBEDDINGS: (("input",), ("messages",)),
    SCORE: (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2")),
    TOKENIZE: (("prompt",), ("messages",)),
    DETOKENIZE: (("tokens",),),
}
JSON_ENCODINGS = ("float", "base64")


class Refused(ValueError):
    """The request cannot be answered; `param` names the field at fault."""

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message)
        self.param = param


class Surface:
    """The answers of one engine, by path; `paths` are those its model's task has an answer for."""

    def __init__(self, state: Any, *, tasks: Collection[str]) -> None:
        """`state` is vLLM's application state, `tasks` what the engine says it supports."""
        from pydantic import TypeAdapter
        from vllm.entrypoints.pooling.embed.protocol import EmbeddingRequest
        from vllm.entrypoints.pooling.scoring.protocol import ScoreRequest
        from vllm.entrypoints.serve.tokenize.protocol import DetokenizeRequest, TokenizeRequest

        tokens = state.serving_tokenization
        found: dict[str, tuple[Any, Callable[..., Any] | None]] = {
            EMBEDDINGS: (EmbeddingRequest, getattr(state, "serving_embedding", None)),
            SCORE: (ScoreRequest, getattr(state, "serving_scores", None)),
            TOKENIZE: (TokenizeRequest, tokens.create_tokenize),
            DETOKENIZE: (DetokenizeRequest, tokens.create_detokenize),
        }
        self._answers = {
            path: (TypeAdapter(kind), answer) for path, (kind, answer) in found.items() if answer is not None
        }
        self._refusal = tokens.create_error_response
        generates = {CHAT, COMPLETIONS} if "generate" in tasks else set()
        self.paths = frozenset(generates | set(self._answers))

    async def answer(self, path: str, request_id: str, body: bytes, *, served: str | None) -> bytes | Any:
        """The answer's body, or vLLM's own error object. Raises ValueError for what cannot be read."""
        from vllm.exceptions import VLLMClientError

        kind, ask = self._answers[path]
        fields = json.loads(body)
        _check(path, fields)
        request = kind.validate_python(fields)
        rename = renaming(request, served=served)
        try:
            answer = await ask(request, _raw_request(request_id))
        except OverflowError:  # tokenizers count in 32 bits
            raise Refused("A token is larger than any tokenizer knows.", param="tokens") from None
        except (ValueError, VLLMClientError) as error:
            return self._refusal(error)
        if hasattr(answer, "error"):
            return answer
        content = getattr(answer, "body", None)  # a response that is written out, or the object itself
        return rename(answer.model_dump_json().encode() if content is None else bytes(content))


def _check(path: str, fields: dict[str, Any]) -> None:
    variants = NEEDED[path]
    if not any(all(name in fields for name in names) for names in variants):
        ways = " or ".join(" with ".join(f"`{name}`" for name in names) for names in variants[:2])
        raise Refused(f"Give {ways}.", param=variants[0][0])
    encoding = fields.get("encoding_format", "float")
    if path == EMBEDDINGS and encoding not in JSON_ENCODINGS:
        raise Refused("encoding_format must be float or base64.", param="encoding_format")


def _raw_request(request_id: str) -> Any:
    """What vLLM takes its request id from."""
    from starlette.requests import Request

    headers = [(b"x-request-id", request_id.encode())]
    return Request({"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers})
