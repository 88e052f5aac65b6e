"""One request's clock readings and the usage record made of them. Pure: every reading takes `now`.

Durations come from a monotonic clock; `started_at` from the wall clock. Figures nobody measured are null.
"""

from dataclasses import dataclass, field
from typing import Any

from serving.cluster.limit_values import Limits
from serving.cluster.replies import Headers
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
    alias: str = ""
    adapter: str = ""
    revision: int = 0
    stream: bool = False
    woke: bool = False
    handed_over: float | None = None
    held_s: float = 0.0
    first_event: float | None = None
    last_event: float | None = None
    events: int = 0
    meta: Meta = field(default_factory=dict)
    limits: tuple[Limits, ...] = ()
    is_accounted: bool = False
    """Its usage record was made."""
    is_left: bool = False
    """The caller has gone: its record is made afterwards, when the engine has told the figures."""

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
            "alias": self.alias or None,
            "adapter": self.adapter or None,
            "revision": self.revision,
            "replica": meta.get("replica") or "",
            "path": self.path,
            "stream": self.stream,
            "started_at": round(self.started_at, 6),
            "prompt_tokens": meta.get("prompt_tokens"),
            "cached_tokens": meta.get("cached_tokens"),
            "completion_tokens": tokens,
            "gateway_s": _rounded(self._gateway_s()),
            "held_s": _rounded(self.held_s),
            "queue_s": _rounded(meta.get("queue_s")),
            "prefill_s": _rounded(meta.get("prefill_s")),
            "engine_decode_s": _rounded(meta.get("decode_s")),
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

    @property
    def tokens(self) -> int:
        """Tokens of prompt and answer together, as far as the engine has told."""
        return (self.meta.get("prompt_tokens") or 0) + (self.meta.get("completion_tokens") or 0)

    def headers(self, now: float, *, whole: bool) -> Headers:
        """What is known now, as `x-raydeck-…`; `whole` when the answer is complete, so that the engine's own
        figures are there. Milliseconds with three decimals."""
        meta = self.meta
        found: list[tuple[bytes, str | int | None]] = [
            (b"x-raydeck-request-id", self.request_id),
            (b"x-raydeck-gateway-ms", _ms(self._gateway_s())),
            (b"x-raydeck-held-ms", _ms(self.held_s)),
        ]
        if self.revision:  # else the name is the caller's own words, which are not for a header
            found += ((b"x-raydeck-deployment", self.deployment), (b"x-raydeck-revision", self.revision))
        if whole:
            found += (
                (b"x-raydeck-replica", meta.get("replica")),
                (b"x-raydeck-queue-ms", _ms(meta.get("queue_s"))),
                (b"x-raydeck-prefill-ms", _ms(meta.get("prefill_s"))),
                (b"x-raydeck-decode-ms", _ms(meta.get("decode_s"))),
                (b"x-raydeck-cached-tokens", meta.get("cached_tokens")),
                (b"x-raydeck-total-ms", _ms(now - self.started)),
            )
        else:
            found.append((b"x-raydeck-first-token-ms", _ms(now - self.started)))
        return tuple((name, str(value).encode()) for name, value in found if value not in (None, ""))

    def _gateway_s(self) -> float | None:
        """Time spent in the gateway before the engine was asked, without waiting for a replica."""
        handed = self._between(self.started, self.handed_over)
        return None if handed is None else max(0.0, handed - self.held_s)

    @staticmethod
    def _between(first: float | None, last: float | None) -> float | None:
        return None if first is None or last is None else last - first


def _ms(value: float | None) -> str | None:
    return None if value is None else f"{value * 1000:.3f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
