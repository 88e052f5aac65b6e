"""Where one request's time went: its usage record as parts that follow one another. Pure.

The parts add up to the time from end to end exactly, since what lies between the clocks is derived from it:
  gateway  measured  key, limits, reading the body (the gateway's clock)
  held     measured  waiting for a sleeping deployment to start (the gateway's clock)
  hop      derived   Serve's way to the replica and back: what is left of the time to the first token, or of
                     the whole for an answer without streaming, whose first token nobody saw
  queue    measured  waiting inside the engine (the engine's clock)
  prefill  measured  until the first token (the engine's clock)
  decode   measured  first to last token (the engine's clock)
  rest     derived   of a stream: passing its pieces on, and closing it
  engine   derived   all of it from hop to rest, where the engine told no figures: it broke off, refused, or
                     had not begun when the caller left
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

LABELS = {
    "gateway": "Gateway",
    "held": "Cold start",
    "hop": "Serve hop",
    "queue": "Engine queue",
    "prefill": "Prefill",
    "decode": "Decode",
    "rest": "Passing on",
    "engine": "Serve and engine",
}


class Figures(Protocol):
    """What a usage record or its row has; seconds, None where nobody measured."""

    @property
    def stream(self) -> bool: ...
    @property
    def gateway_s(self) -> float | None: ...
    @property
    def held_s(self) -> float | None: ...
    @property
    def queue_s(self) -> float | None: ...
    @property
    def prefill_s(self) -> float | None: ...
    @property
    def engine_decode_s(self) -> float | None: ...
    @property
    def decode_s(self) -> float | None: ...
    @property
    def ttft_s(self) -> float | None: ...
    @property
    def e2e_s(self) -> float | None: ...


@dataclass(frozen=True)
class Part:
    """One stretch of time, in seconds from the request's start."""

    name: str
    start_s: float
    seconds: float
    how: Literal["measured", "derived"]

    @property
    def label(self) -> str:
        """Its name for people."""
        return LABELS[self.name]


def parts_of(record: Figures) -> list[Part]:
    """The parts of a request in order of time; none where not even its end is known."""
    total_s = record.e2e_s
    if total_s is None:
        return []
    left = _Rest(total_s)
    held_s = left.take(record.held_s)
    if record.gateway_s is None:  # never handed to the engine: what was not held was the gateway's
        return _joined([("gateway", left.take(total_s), "measured"), ("held", held_s, "measured")])
    found: list[_Found] = [("gateway", left.take(record.gateway_s), "measured"), ("held", held_s, "measured")]
    if record.queue_s is None or record.prefill_s is None:
        return _joined([*found, ("engine", left.seconds, "derived")])
    queue_s, prefill_s = left.take(record.queue_s), left.take(record.prefill_s)
    # Records of older gateways have the decode time of a stream by the gateway's clock only.
    decode_s = left.take(record.decode_s if record.engine_decode_s is None else record.engine_decode_s)
    hop_s = left.seconds
    if record.stream and record.ttft_s is not None:
        before_s = found[0][1] + held_s + queue_s + prefill_s
        hop_s = min(hop_s, max(0.0, record.ttft_s - before_s))
    left.take(hop_s)
    found += [("hop", hop_s, "derived"), ("queue", queue_s, "measured"), ("prefill", prefill_s, "measured")]
    return _joined([*found, ("decode", decode_s, "measured"), ("rest", left.seconds, "derived")])


_Found = tuple[str, float, Literal["measured", "derived"]]
ALWAYS = frozenset({"gateway", "hop", "queue", "prefill", "decode"})


class _Rest:
    """The seconds not given to a part yet. Clocks of two processes can overlap by a hair: nobody gets more
    than there is."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def take(self, wanted: float | None) -> float:
        taken = min(max(0.0, wanted or 0.0), self.seconds)
        self.seconds -= taken
        return taken


def _joined(found: list[_Found]) -> list[Part]:
    parts, at = [], 0.0
    for name, seconds, how in found:
        if seconds or name in ALWAYS:
            parts.append(Part(name, at, seconds, how))
        at += seconds
    return parts
