"""Exact figures of one request, read where the engine hands out its results.

Wraps the engine client's public `generate`: every result passes through unchanged, its token counts and
engine timestamps are noted on the way. So no request has to be altered and an aborted one is counted as well.
Must import neither ray nor vllm.
"""

from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

from serving.cluster.wire import Meta

current_meter: ContextVar["Meter | None"] = ContextVar("raydeck_meter", default=None)
DELTA = 1  # vllm.sampling_params.RequestOutputKind.DELTA


class Meter:
    """Counts of one request; a request may hold several prompts or choices."""

    def __init__(self, replica: str) -> None:
        self.replica = replica
        self._prompts: dict[str, tuple[int, int | None]] = {}
        self._outputs: dict[tuple[str, int], int] = {}
        self._finish_reason: str | None = None
        self._queue_s: float | None = None
        self._prefill_s: float | None = None

    def note(self, result: Any, *, is_delta: bool) -> None:
        """Takes one engine result (vLLM's RequestOutput)."""
        key = str(result.request_id)
        cached = result.num_cached_tokens
        self._prompts[key] = (len(result.prompt_token_ids or ()), None if cached is None else int(cached))
        for output in result.outputs:
            index = (key, output.index)
            count = len(output.token_ids)
            self._outputs[index] = self._outputs.get(index, 0) + count if is_delta else count
            if output.finish_reason:
                self._finish_reason = str(output.finish_reason)
        stats = result.metrics
        # Engine core clocks, monotonic; 0.0 means not reached yet.
        if stats is not None and stats.first_token_ts and self._queue_s is None:
            self._queue_s = max(0.0, stats.scheduled_ts - stats.queued_ts)
            self._prefill_s = max(0.0, stats.first_token_ts - stats.scheduled_ts)

    def meta(self, *, status: int = 200, error_class: str | None = None) -> Meta:
        """What goes back to the gateway (see wire.py)."""
        cached = [value for _, value in self._prompts.values() if value is not None]
        return {
            "status": status,
            "prompt_tokens": sum(count for count, _ in self._prompts.values()) if self._prompts else None,
            "cached_tokens": sum(cached) if cached else None,
            "completion_tokens": sum(self._outputs.values()) if self._outputs else None,
            "queue_s": self._queue_s,
            "prefill_s": self._prefill_s,
            "finish_reason": self._finish_reason,
            "replica": self.replica,
            "error_class": error_class,
        }


def metered(generate: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    """`generate` with every result noted in the meter of the calling request, if it has one."""

    def generate_metered(prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        results = generate(prompt, sampling_params, *args, **kwargs)
        meter = current_meter.get()
        if meter is None:
            return results
        kind = getattr(sampling_params, "output_kind", None)
        return _noted(results, meter, is_delta=getattr(kind, "value", kind) == DELTA)

    return generate_metered


async def _noted(results: AsyncIterator[Any], meter: Meter, *, is_delta: bool) -> AsyncIterator[Any]:
    try:
        async for result in results:
            meter.note(result, is_delta=is_delta)
            yield result
    finally:
        # A consumer that goes away must reach the engine at once, not at garbage collection.
        close = getattr(results, "aclose", None)
        if close is not None:
            await close()
