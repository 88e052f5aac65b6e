"""Exact figures of one request, read where the engine hands out its results.

Wraps the engine client's public `generate`: every result passes through unchanged, its token counts and
engine timestamps are noted on the way. So no request has to be altered and an aborted one is counted as well.
Must import neither ray nor vllm.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from functools import partial
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
        self._aborted: dict[str, tuple[int, int]] = {}
        self._finish_reason: str | None = None
        self._queue_s: float | None = None
        self._prefill_s: float | None = None
        self._first_token_ts = 0.0
        self._last_token_ts = 0.0

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
        self._note_times(result.metrics)

    def note_pooled(self, result: Any) -> None:
        """Takes one result of a pooling model (vLLM's PoolingRequestOutput): read, never generated."""
        key = str(result.request_id)
        cached = result.num_cached_tokens
        self._prompts[key] = (len(result.prompt_token_ids or ()), None if cached is None else int(cached))
        self._outputs[(key, 0)] = 0

    def note_aborted(self, request_id: str, state: Any) -> None:
        """Takes the engine's own state of a request that is being aborted.

        Without streaming no result has come out yet, so this is the only place that knows the counts.
        """
        generated = getattr(state.stats, "num_generation_tokens", 0) if state.stats is not None else 0
        self._aborted[request_id] = (int(state.prompt_len or 0), int(generated))
        self._note_times(state.stats)

    def _note_times(self, stats: Any) -> None:
        # Engine core clocks, monotonic; 0.0 means not reached yet.
        if stats is None or not stats.first_token_ts:
            return
        if self._queue_s is None:
            self._queue_s = max(0.0, stats.scheduled_ts - stats.queued_ts)
            self._prefill_s = max(0.0, stats.first_token_ts - stats.scheduled_ts)
            self._first_token_ts = stats.first_token_ts
        # Of several prompts or choices: from the first one's first token to the last one's last.
        if stats.last_token_ts > self._last_token_ts:
            self._last_token_ts = stats.last_token_ts

    @property
    def _decode_s(self) -> float | None:
        if self._queue_s is None:
            return None
        return max(0.0, self._last_token_ts - self._first_token_ts)

    def meta(self, *, status: int = 200, error_class: str | None = None) -> Meta:
        """What goes back to the gateway (see wire.py)."""
        cached = [value for _, value in self._prompts.values() if value is not None]
        prompt_tokens = sum(count for count, _ in self._prompts.values()) if self._prompts else None
        completion_tokens = sum(self._outputs.values()) if self._outputs else None
        if self._aborted:
            prompt_tokens = max(prompt_tokens or 0, sum(count for count, _ in self._aborted.values()))
            completion_tokens = max(completion_tokens or 0, sum(count for _, count in self._aborted.values()))
        return {
            "status": status,
            "prompt_tokens": prompt_tokens,
            "cached_tokens": sum(cached) if cached else None,
            "completion_tokens": completion_tokens,
            "queue_s": self._queue_s,
            "prefill_s": self._prefill_s,
            "decode_s": self._decode_s,
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
        return _noted(results, partial(meter.note, is_delta=getattr(kind, "value", kind) == DELTA))

    return generate_metered


def metered_encode(encode: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    """`encode`, through which embeddings and scores go, likewise."""

    def encode_metered(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        results = encode(*args, **kwargs)
        meter = current_meter.get()
        return results if meter is None else _noted(results, meter.note_pooled)

    return encode_metered


def metered_abort(client: Any) -> Callable[..., Awaitable[None]]:
    """The engine client's `abort`, reading the counts of the requests before they are forgotten."""
    abort = client.abort
    states = client.output_processor.request_states

    async def abort_metered(request_id: Any, *args: Any, **kwargs: Any) -> None:
        meter = current_meter.get()
        names = (request_id,) if isinstance(request_id, str) else tuple(request_id)
        for name in names if meter is not None else ():
            state = states.get(name)
            if state is not None and meter is not None:
                meter.note_aborted(name, state)
        await abort(names, *args, **kwargs)

    return abort_metered


async def _noted(results: AsyncIterator[Any], note: Callable[[Any], None]) -> AsyncIterator[Any]:
    try:
        async for result in results:
            note(result)
            yield result
    finally:
        # A consumer that goes away must reach the engine at once, not at garbage collection.
        close = getattr(results, "aclose", None)
        if close is not None:
            await close()
