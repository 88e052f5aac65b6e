"""One request's clock readings and the usage record made of them. Pure: every reading takes `now`.

Durations come from a monotonic clock; `started_at` from the wall clock. Figures nobody measured are null.
"""

from dataclasses import dataclass, field
from typing import Any

from serving.cluster.wire import Meta


@dataclass
class Timeline:
    """What is known of one request so far."""

    request_id: str
    path: str
    started_at: float
    started: float
    key_id: int = 0
    user: str | None = None
    deployment: str = ""
    revision: int = 0
    stream: bool = False
    woke: bool = False
    handed_over: float | None = None
    held: bool = False
    held_s: float = 0.0
    first_event: float | None = None
    last_event: float | None = None
    events: int = 0
    meta: Meta = field(default_factory=dict)

    def event(self, now: float) -> None:
        """A piece of the answer went to the caller."""
        if self.first_event is None:
            self.first_event = now
        self.last_event = now
        self.events += 1

    def record(self, now: float, *, status: int, outcome: str, error_class: str | None) -> dict[str, Any]:
        """The usage record, in the shape readers of the stream expect."""
        meta = self.meta
        decode_s = self._between(self.first_event, self.last_event)
        tokens = meta.get("completion_tokens")
        return {
            "id": self.request_id,
            "key_id": self.key_id,
            "user": self.user,
            "deployment": self.deployment,
            "revision": self.revision,
            "replica": meta.get("replica") or "",
            "path": self.path,
            "stream": self.stream,
            "started_at": round(self.started_at, 6),
            "prompt_tokens": meta.get("prompt_tokens"),
            "cached_tokens": meta.get("cached_tokens"),
            "completion_tokens": tokens,
            "gateway_s": _rounded(self._gateway_s()),
            "queue_s": _rounded(meta.get("queue_s")),
            "prefill_s": _rounded(meta.get("prefill_s")),
            "ttft_s": _rounded(self._between(self.started, self.first_event)),
            "tpot_s": _rounded(decode_s / (tokens - 1)) if decode_s and tokens and tokens > 1 else None,
            "decode_s": _rounded(decode_s),
            "e2e_s": _rounded(now - self.started),
            "status": status,
            "outcome": outcome,
            "finish_reason": meta.get("finish_reason"),
            "error_class": error_class,
            "woke": self.woke,
        }

    def _gateway_s(self) -> float | None:
        """Time spent in the gateway before the engine was asked, without waiting for a replica.

        None for who waited for one that was replaced: readers take it for part of an ordinary first token.
        """
        if self.held and not self.woke:
            return None
        handed = self._between(self.started, self.handed_over)
        return None if handed is None else max(0.0, handed - self.held_s)

    @staticmethod
    def _between(first: float | None, last: float | None) -> float | None:
        return None if first is None or last is None else last - first


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
