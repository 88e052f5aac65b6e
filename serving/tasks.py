"""What a deployed model does with a request: writes text, makes embeddings, or scores pairs. Pure.

Follows vLLM's own choice (config/model.py: the architecture's registry group, a sentence-transformers
modules.json, the engine arguments `runner` and `convert`). It is a forecast: the engine has the last word,
and refuses what is not its task with the code in `serving/gateway_paths.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from serving.engine_support import engine_support, generating_architectures
from serving.gateway_paths import COMPLETIONS, EMBEDDINGS, SCORE

Task = Literal["generate", "embed", "score"]
SCORING_ENDINGS = ("ForSequenceClassification", "ForRanking", "ClassificationModel")
PATHS: dict[Task, str] = {"generate": COMPLETIONS, "embed": EMBEDDINGS, "score": SCORE}
"""The path that proves a task."""
WORDS: dict[Task, str] = {
    "generate": "generates text",
    "embed": "makes embeddings",
    "score": "scores pairs of texts",
}


def task_of(facts: Mapping[str, Any], engine_kwargs: Mapping[str, Any]) -> Task:
    """The task of a model with these facts (serving/checkpoint.py) under these engine arguments."""
    runner, convert = engine_kwargs.get("runner"), engine_kwargs.get("convert")
    if runner == "generate":
        return "generate"
    if convert == "classify":
        return "score"
    architecture = str(facts.get("architecture") or "")
    is_pooling = (
        architecture in engine_support()["pooling"] and architecture not in generating_architectures()
    )
    if not (is_pooling or runner == "pooling" or convert == "embed" or facts.get("sentence_transformers")):
        return "generate"
    return "score" if architecture.endswith(SCORING_ENDINGS) else "embed"
