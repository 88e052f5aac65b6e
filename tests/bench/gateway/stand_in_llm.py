"""The engine of no cost behind Ray Serve LLM's own server and ingress (RAYLLM_VLLM_ENGINE_CLS names it)."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from ray.llm._internal.serve.core.configs.openai_api_models import ChatCompletionResponse
from ray.llm._internal.serve.core.engine.protocol import LLMEngine

from tests.bench.gateway import answers


class StandInLLMEngine(LLMEngine):
    """What Ray asks of an engine; only chat answers."""

    def __init__(self, llm_config: Any) -> None:
        self._answer = ChatCompletionResponse.model_validate_json(answers.UNARY)

    async def start(self) -> None:
        """There is nothing to start."""

    def routing_stats(self) -> dict[str, Any]:
        """None."""
        return {}

    async def resolve_lora(self, lora_model: Any) -> None:
        """No adapters."""

    async def reset_prefix_cache(self) -> None:
        """No cache."""

    async def chat(self, request: Any, raw_request_info: Any = None) -> AsyncGenerator[Any, None]:
        """The answer, whole or in pieces."""
        if not request.stream:
            yield self._answer
            return
        for index in range(answers.CHUNKS):
            yield f"data: {json.dumps(answers.chunk(index))}\n\n"
            await asyncio.sleep(answers.INTERVAL_S)
        yield answers.DONE.decode()

    async def completions(self, request: Any, raw_request_info: Any = None) -> AsyncGenerator[Any, None]:
        """Not part of the comparison."""
        raise NotImplementedError
        yield

    async def embeddings(self, request: Any, raw_request_info: Any = None) -> AsyncGenerator[Any, None]:
        """Not part of the comparison."""
        raise NotImplementedError
        yield

    async def transcriptions(self, request: Any, raw_request_info: Any = None) -> AsyncGenerator[Any, None]:
        """Not part of the comparison."""
        raise NotImplementedError
        yield
