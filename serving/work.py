"""When a request was on its replica, and what work it got there. Pure.

Work is counted in weighted tokens. The weights say what a token takes of a replica beside other tokens:

    prompt token, read (prefill)      10
    prompt token, found in the cache   1
    output token (decode)             40

An output token costs a forward pass that reads every weight from memory and is shared only with the requests
in the same step; a prompt token is one of thousands in a pass that is limited by arithmetic. On an H100 with
an 8 B model in 16 bits, reading a prompt token takes about 32 µs (2 × 8e9 operations at half of the peak) and
an output token about 125 to 190 µs at 32 to 48 requests in flight (16 GB at 80 % of the bandwidth, plus the
KV cache): a factor of 4 to 6. A cached token is not computed; it holds its KV blocks and is attended to.
The list prices of public APIs have the same order: output 4 to 5 times the input, cached input a tenth.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.cost import MICROSECONDS, microseconds

PREFILL_WEIGHT = 10
CACHED_WEIGHT = 1
DECODE_WEIGHT = 40
LONGEST_REQUEST_S = 6 * 3600
"""Of a request that claims to have lasted longer, only its last hours count."""


@dataclass(frozen=True)
class Served:
    """A usage record as far as work goes; durations in seconds, None where not measured."""

    id: str
    started_at: float
    finished_at: float
    stream: bool = True
    woke: bool = False
    gateway_s: float | None = None
    held_s: float | None = None
    queue_s: float | None = None
    prefill_s: float | None = None
    ttft_s: float | None = None
    decode_s: float | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True)
class Phase:
    """A stretch of steady work, in microseconds and weighted tokens."""

    begin_us: int
    end_us: int
    work: int


@dataclass(frozen=True)
class Work:
    """A request's time on its replica, [begin, end) in microseconds, and its phases within that time."""

    id: str
    begin_us: int
    end_us: int
    phases: tuple[Phase, ...]


def work_of(served: Served, *, ready_at: float | None = None) -> Work | None:
    """The time and work of a request; None when it had no time. `ready_at`: when its replica was ready."""
    end = microseconds(served.finished_at)
    begin = max(microseconds(_begin(served, ready_at)), end - LONGEST_REQUEST_S * MICROSECONDS)
    if begin >= end:
        return None
    prompt = served.prompt_tokens or 0
    cached = min(served.cached_tokens or 0, prompt)
    reading = (prompt - cached) * PREFILL_WEIGHT + cached * CACHED_WEIGHT
    writing = (served.completion_tokens or 0) * DECODE_WEIGHT
    first = _first_token_us(served, begin)
    if first is None:
        phases = [Phase(begin, end, reading + writing)]
    else:
        read_from = begin if served.prefill_s is None else first - microseconds(served.prefill_s)
        measured = served.stream and served.decode_s is not None
        written_at = first + microseconds(served.decode_s or 0.0) if measured else end
        phases = [Phase(read_from, first, reading), Phase(first, written_at, writing)]
    kept = tuple(_within(phase, begin, end) for phase in phases if phase.work)
    return Work(served.id, begin, end, kept)


def _begin(served: Served, ready_at: float | None) -> float:
    """When it reached its replica. One that woke a sleeping deployment waited for a start, which is nobody's:
    it counts from what the engine measured, or else from when the replica was ready."""
    # Who was held while a replica was replaced waited for nobody's work either.
    handed_over = served.started_at + (served.gateway_s or 0.0) + (served.held_s or 0.0)
    if not served.woke:
        return handed_over
    in_engine = None if served.prefill_s is None else served.prefill_s + (served.queue_s or 0.0)
    if served.stream and served.ttft_s is not None and in_engine is not None:
        return max(handed_over, served.started_at + served.ttft_s - in_engine)
    if ready_at is not None and ready_at < served.finished_at:
        return max(handed_over, ready_at)
    return handed_over if in_engine is None else max(handed_over, served.finished_at - in_engine)


def _first_token_us(served: Served, begin_us: int) -> int | None:
    """The end of prefill: on the gateway's clock for a stream, else by the engine's own durations."""
    if served.stream and served.ttft_s is not None:
        return microseconds(served.started_at + served.ttft_s)
    if served.prefill_s is None:
        return None
    return begin_us + microseconds((served.queue_s or 0.0) + served.prefill_s)


def _within(phase: Phase, begin_us: int, end_us: int) -> Phase:
    """The phase inside the request's time, one microsecond at least, so that no work is lost."""
    begin = min(max(phase.begin_us, begin_us), end_us - 1)
    end = min(max(phase.end_us, begin + 1), end_us)
    return Phase(begin, end, phase.work)
