"""The figures of one reply: times as the console saw them, tokens, and the price of the replica's time.

Pure: every moment is passed in as seconds of one monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

USD_PLACES = Decimal("0.00000001")
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class ReplicaPrice:
    """What one replica of a deployment costs."""

    per_accelerator_hour_usd: Decimal
    accelerators: int

    def cost_usd(self, seconds: float) -> Decimal:
        """Price of one replica for this long. An upper bound for one reply: a replica works on several at
        once, and idle time belongs to none of them."""
        hours = Decimal(str(seconds)) / SECONDS_PER_HOUR
        return (hours * self.per_accelerator_hour_usd * self.accelerators).quantize(USD_PLACES)


@dataclass
class ReplyClock:
    """Collects the moments of one reply."""

    started_at: float
    first_at: float | None = None
    last_at: float | None = None
    ended_at: float | None = None
    pieces: int = 0

    def piece(self, now: float) -> None:
        """A piece of text came."""
        if self.first_at is None:
            self.first_at = now
        self.last_at = now
        self.pieces += 1

    def end(self, now: float) -> None:
        """The reply is over, for whatever reason."""
        self.ended_at = now


def stats_of(
    *,
    clock: ReplyClock,
    prompt_tokens: int | None,
    completion_tokens: int | None,
    price: ReplicaPrice | None,
) -> dict[str, Any]:
    """The figures under a reply, as stored and sent: seconds, tokens, and USD as text.

    Without the engine's count (a stopped or broken reply) the pieces are counted, which is close and never
    too many; `tokens_counted` says that it was done, and `with_engine` corrects it. TPOT is
    (last − first) / (tokens − 1).
    """
    counted = completion_tokens is None
    tokens = clock.pieces if completion_tokens is None else completion_tokens
    total_s = (clock.ended_at or clock.started_at) - clock.started_at
    return {
        "ttft_s": _rounded(clock.first_at, clock.started_at),
        "tpot_s": _tpot_s(clock, tokens),
        "e2e_s": round(total_s, 6),
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "tokens_counted": counted,
        "tokens_per_s": round(tokens / total_s, 3) if tokens and total_s > 0 else None,
        "cost_usd": str(price.cost_usd(total_s)) if price else None,
        "accelerators": price.accelerators if price else None,
        "price_per_accelerator_hour_usd": str(price.per_accelerator_hour_usd) if price else None,
    }


def with_engine(stats: dict[str, Any], engine: dict[str, Any] | None) -> dict[str, Any]:
    """The figures with what the usage record adds: the engine's time to first token, its count of tokens
    where only pieces could be counted, and what the reply has cost, once that is known.
    static/js/chat_answer.js does the same for a reply just ended."""
    if not engine:
        return stats
    merged = {**stats, "engine_ttft_s": engine["engine_ttft_s"], "parts": engine.get("parts") or []}
    if engine.get("allocated_usd") is not None:
        merged["allocated_usd"] = engine["allocated_usd"]
    if stats.get("tokens_counted") and engine["completion_tokens"] is not None:
        merged |= _recounted(stats, int(engine["completion_tokens"]))
    if stats.get("prompt_tokens") is None:
        merged["prompt_tokens"] = engine["prompt_tokens"]
    return merged


def _recounted(stats: dict[str, Any], tokens: int) -> dict[str, Any]:
    """A piece may hold several tokens (letters outside ASCII): with the true count, the rates change too."""
    counted, tpot_s, e2e_s = stats.get("completion_tokens") or 0, stats.get("tpot_s"), stats.get("e2e_s")
    rates: dict[str, Any] = {"completion_tokens": tokens, "tokens_counted": False}
    if tpot_s is not None and tokens > 1:
        rates["tpot_s"] = round(tpot_s * (counted - 1) / (tokens - 1), 6)
    if e2e_s:
        rates["tokens_per_s"] = round(tokens / e2e_s, 3)
    return rates


def _rounded(moment: float | None, start: float) -> float | None:
    return None if moment is None else round(moment - start, 6)


def _tpot_s(clock: ReplyClock, tokens: int) -> float | None:
    if clock.first_at is None or clock.last_at is None or tokens < 2 or clock.pieces < 2:
        return None
    return round((clock.last_at - clock.first_at) / (tokens - 1), 6)
