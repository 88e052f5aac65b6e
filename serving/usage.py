"""One usage record as the gateway writes it, read and checked. Pure; knows no Redis and no database.

The gateway puts one JSON text per finished, failed, aborted or refused request into the stream
`raydeck:usage`, field `r`. A text without this shape raises BadRecord; it must never stop the others.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

STREAM = "raydeck:usage"
FIELD = "r"
DEAD_STREAM = "raydeck:usage:dead"
"""Where records go that cannot be read: fields `r`, `error` and `entry` (the id it had in the stream)."""

HELD_S = 1.0
"""A request that waited longer for a replica was held; less is only the routing table on its way."""

OUTCOMES = frozenset({"ok", "error", "aborted", "refused"})
TOKENS_MAX = 2**31 - 1
SECONDS_MAX = 1e9


class BadRecord(ValueError):
    """The text is no usage record; says which field is wrong, never what it held."""


@dataclass(frozen=True)
class UsageRecord:
    """One request. Durations in seconds, `started_at` in epoch seconds; None means not measured."""

    id: str
    key_id: int | None
    user: str
    deployment: str
    alias: str
    adapter: str
    revision: int
    replica: str
    path: str
    stream: bool
    started_at: float
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    gateway_s: float | None
    held_s: float | None
    queue_s: float | None
    prefill_s: float | None
    engine_decode_s: float | None
    ttft_s: float | None
    tpot_s: float | None
    decode_s: float | None
    e2e_s: float | None
    status: int
    outcome: str
    finish_reason: str
    error_class: str
    woke: bool

    @property
    def finished_at(self) -> float:
        """Epoch seconds at which the request ended."""
        return self.started_at + (self.e2e_s or 0.0)

    @property
    def failed(self) -> bool:
        """Whether the service failed it: an engine error, or nothing there to answer (503)."""
        return self.outcome == "error" or self.status >= 500

    @property
    def answered(self) -> bool:
        """Whether it was served, to its end or to the point where the caller left."""
        return not self.failed and self.outcome in ("ok", "aborted")

    @property
    def first_token_s(self) -> float | None:
        """Seconds to the first token: the gateway's clock for a stream.

        A caller without streaming sees no first token; there the engine's clocks say when it was made
        (gateway + queue + prefill), except when the request waited for a replica to start.
        """
        if self.stream:
            return self.ttft_s
        was_held = self.woke or (self.held_s or 0.0) > HELD_S
        if was_held or self.gateway_s is None or self.queue_s is None or self.prefill_s is None:
            return None
        return self.gateway_s + self.queue_s + self.prefill_s

    @property
    def per_token_s(self) -> float | None:
        """Seconds per token after the first, None for answers of one token."""
        if self.stream:
            return self.tpot_s
        first_s, tokens = self.first_token_s, self.completion_tokens or 0
        if first_s is None or self.e2e_s is None or tokens < 2:
            return None
        return max(0.0, self.e2e_s - first_s) / (tokens - 1)


def read_record(text: str | bytes) -> UsageRecord:
    """The record in one stream entry; raises BadRecord."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRecord("not JSON") from error
    if not isinstance(raw, dict):
        raise BadRecord("not an object")
    outcome = _text(raw, "outcome", longest=10)
    if outcome not in OUTCOMES:
        raise BadRecord("outcome")
    return UsageRecord(
        id=_id(raw),
        key_id=_whole(raw, "key_id"),
        user=_text(raw, "user", longest=150),
        deployment=_text(raw, "deployment", longest=100),
        alias=_text(raw, "alias", longest=40),
        adapter=_text(raw, "adapter", longest=40),
        revision=_whole(raw, "revision") or 0,
        replica=_text(raw, "replica", longest=120),
        path=_text(raw, "path", longest=60),
        stream=raw.get("stream") is True,
        started_at=_seconds(raw, "started_at", most=1e11, needed=True) or 0.0,
        prompt_tokens=_whole(raw, "prompt_tokens"),
        cached_tokens=_whole(raw, "cached_tokens"),
        completion_tokens=_whole(raw, "completion_tokens"),
        **{name: _seconds(raw, name) for name in DURATIONS},
        status=_status(raw),
        outcome=outcome,
        finish_reason=_text(raw, "finish_reason", longest=30),
        error_class=_text(raw, "error_class", longest=80),
        woke=raw.get("woke") is True,
    )


DURATIONS = (
    "gateway_s",
    "held_s",
    "queue_s",
    "prefill_s",
    "engine_decode_s",
    "ttft_s",
    "tpot_s",
    "decode_s",
    "e2e_s",
)


def _text(raw: dict[str, Any], name: str, *, longest: int) -> str:
    """A describing text, cut to its column: a caller's odd model name must not cost us the record."""
    value = raw.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRecord(name)
    # NUL and lone surrogates are what databases refuse.
    return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()[:longest]


def _id(raw: dict[str, Any]) -> str:
    """The id, never cut: two records must not become one."""
    value = raw.get("id")
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]{1,40}", value):
        raise BadRecord("id")
    return value


def _whole(raw: dict[str, Any], name: str) -> int | None:
    value = raw.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= TOKENS_MAX:
        raise BadRecord(name)
    return value


def _seconds(
    raw: dict[str, Any], name: str, *, most: float = SECONDS_MAX, needed: bool = False
) -> float | None:
    value = raw.get(name)
    if value is None and not needed:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRecord(name)
    if not math.isfinite(value) or not 0 <= value <= most:
        raise BadRecord(name)
    return float(value)


def _status(raw: dict[str, Any]) -> int:
    status = _whole(raw, "status")
    if status is None or status > 999:
        raise BadRecord("status")
    return status
