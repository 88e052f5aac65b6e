"""The addresses callers may post to, and which of them a model with given tasks answers. Pure.

Shared by gateway, engine and console: all must speak of the same paths.
"""

from collections.abc import Collection

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
SCORE = "/v1/score"
TOKENIZE = "/tokenize"
DETOKENIZE = "/detokenize"

POSTED = {
    CHAT: CHAT,
    COMPLETIONS: COMPLETIONS,
    EMBEDDINGS: EMBEDDINGS,
    SCORE: SCORE,
    "/score": SCORE,
    TOKENIZE: TOKENIZE,
    DETOKENIZE: DETOKENIZE,
}
"""What a caller may post to -> the name under which it is answered and accounted for."""
STREAMED = frozenset({CHAT, COMPLETIONS})
"""Paths whose answer can come as a stream; elsewhere `stream` means nothing."""
TASK_NOT_SUPPORTED = "task_not_supported"
"""Code of the refusal for a path that the model's task has no answer for."""


def not_supported(path: str, *, answered: Collection[str]) -> str:
    """The refusal in words: what this model does, and where it answers."""
    listed = " and ".join(filter(None, (", ".join(sorted(answered)[:-1]), sorted(answered)[-1])))
    return f"This model {_does(answered)}, so it does not answer {path}. It answers {listed}."


def _does(answered: Collection[str]) -> str:
    if COMPLETIONS in answered:
        return "generates text (task `generate`)"
    if EMBEDDINGS in answered:
        return "makes embeddings (task `embed`)"
    if SCORE in answered:
        return "scores pairs of texts (task `score`)"
    return "neither generates text nor makes embeddings or scores"
